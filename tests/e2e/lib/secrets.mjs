// Secrets that must stay with their owner, and the search for them wherever text comes out.
import { randomBytes } from 'node:crypto';

const TOKEN = /zq([0-9a-z]+)x[0-9a-f]{20}/g;
const ENCODED = /[A-Za-z0-9+/_-]{40,}={0,2}/g;
const LEVELS = 3; // an encoding inside an encoding

/** A repeatable source of chance: random(n) is 0 .. n-1. */
export function chance(seed) {
  let state = seed >>> 0;
  return (n) => { // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}

export class Secrets {
  #owners = new Map();

  /** A new one; letters and digits only, so that no encoding of text changes it. */
  plant(owner) {
    const token = `zq${owner}x${randomBytes(10).toString('hex')}`;
    this.#owners.set(token, owner);
    return token;
  }

  /** Every planted token in a text, also inside base64 and percent encoding. */
  find(text, level = 0) {
    const found = new Set();
    for (const [token] of text.matchAll(TOKEN)) {
      if (this.#owners.has(token)) found.add(token);
    }
    if (level === LEVELS) return found;
    const inner = [];
    for (const [part] of text.matchAll(ENCODED)) {
      if (!/^[0-9a-z]+$/.test(part)) inner.push(Buffer.from(part, 'base64').toString('latin1'));
    }
    if (text.includes('%')) {
      inner.push(text.replace(/%([0-9a-f]{2})/gi, (_, h) => String.fromCharCode(parseInt(h, 16))));
    }
    for (const one of inner) for (const token of this.find(one, level + 1)) found.add(token);
    return found;
  }

  /** Those that do not belong to `owner`. */
  foreign(owner, text) {
    return [...this.find(text)].filter((token) => this.#owners.get(token) !== owner);
  }

  ownerOf(token) {
    return this.#owners.get(token);
  }
}

/** A PNG of one pixel with a text in it, as base64. */
export function imageWith(text) {
  const plain = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk' +
    '+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64');
  const type = Buffer.from('tEXt');
  const data = Buffer.from(`Comment\0${text}`, 'latin1');
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(Buffer.concat([type, data])));
  return Buffer.concat([plain.subarray(0, 33), length, type, data, sum, plain.subarray(33)])
    .toString('base64');
}

function crc32(data) {
  let crc = ~0;
  for (const byte of data) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
