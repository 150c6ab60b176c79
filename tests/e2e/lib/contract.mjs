// The document at /openapi.json held against live answers.
//
//   const contract = await Contract.of(gw);
//   const reply = await contract.send(gw, 'POST', '/api/chat', { body, headers });
//
// send() throws when the status, a header, the body or an event of a stream is not what the document
// says, or when the server took a request that the document does not allow. What was seen is kept: see
// missing().
import Ajv from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import assert from 'node:assert/strict';

const ROOT = 'openapi.json';
const METHODS = ['get', 'put', 'post', 'delete', 'patch'];
// Of HTTP itself, and of each answer of this server.
const PLAIN_HEADERS = new Set(['connection', 'keep-alive', 'date', 'content-type', 'content-length',
  'transfer-encoding', 'cache-control', 'vary', 'x-content-type-options', 'x-accel-buffering',
  'referrer-policy']);

const escape = (part) => part.replaceAll('~', '~0').replaceAll('/', '~1');
const pointer = (...parts) => parts.map((part) => `/${escape(String(part))}`).join('');

export class Contract {
  #ajv = new Ajv({ strict: true, allowUnionTypes: true, strictRequired: false, allErrors: true });
  #seen = new Set();

  static async of(gw) {
    const { status, body } = await gw.request('GET', '/openapi.json');
    assert.equal(status, 200);
    return new Contract(body);
  }

  constructor(doc) {
    this.doc = doc;
    addFormats(this.#ajv);
    // Words that are no schema's; any other unknown one is a slip of the pen, and refused.
    for (const word of ['example', ...Object.keys(doc)]) this.#ajv.addKeyword(word);
    this.#ajv.addSchema(doc, ROOT);
  }

  /** What the pointer leads to; $refs on the way and at its end are followed. */
  at(where) {
    let node = this.doc;
    let place = '';
    for (const part of where.split('/').slice(1)) {
      place += `/${part}`;
      node = node?.[part.replaceAll('~1', '/').replaceAll('~0', '~')];
      while (node?.$ref) {
        place = node.$ref.slice(1);
        node = this.at(place).node;
      }
    }
    return { node, place };
  }

  /** Throws unless the value is what the schema at this pointer says. */
  validate(where, value, what) {
    const validator = this.#ajv.getSchema(`${ROOT}#${where}`) ??
      this.#ajv.compile({ $ref: `${ROOT}#${where}` });
    if (validator(value)) return;
    const faults = validator.errors.slice(0, 12).map((e) =>
      `${e.instancePath || '(all)'} ${e.message} ${JSON.stringify(e.params)}`);
    assert.fail(`${what} is not ${where}: ${faults.join('; ')}\n${JSON.stringify(value)}`);
  }

  /** Every operation: {method, path, operation, where}. */
  operations() {
    return Object.entries(this.doc.paths).flatMap(([path, item]) => METHODS
      .filter((method) => item[method])
      .map((method) => ({ method: method.toUpperCase(), path, operation: item[method],
        where: pointer('paths', path, method) })));
  }

  find(method, target) {
    const path = target.split('?')[0];
    const found = this.operations().find((o) => o.method === method &&
      new RegExp(`^${o.path.replaceAll('.', '\\.').replace(/\{\w+\}/g, '[^/]+')}$`).test(path));
    assert.ok(found, `${method} ${path} is in the document`);
    return found;
  }

  /** One request, its answer checked. Adds `events` to a stream's: [{id, name, data}]. */
  async send(gw, method, target, options = {}) {
    const reply = await gw.request(method, target, options);
    const found = this.find(method, target);
    this.check(found, reply);
    if (reply.status === 200 && found.operation.requestBody) { // what is taken is documented
      this.validate(`${found.where}/requestBody/content/application~1json/schema`, options.body, target);
    }
    return reply;
  }

  check(found, reply) {
    const { operation, where } = found;
    const what = `${operation.operationId} ${reply.status}`;
    assert.ok(operation.responses[reply.status], `${what} is not documented: ${reply.text}`);
    this.checkResponse(`${where}${pointer('responses', reply.status)}`, reply, what);
    this.#seen.add(what);
  }

  /** An answer against the response object at this pointer. */
  checkResponse(at, reply, what) {
    const { node, place } = this.at(at);
    this.#checkHeaders(node.headers ?? {}, place, reply, what);
    if (!node.content) {
      assert.equal(reply.text, '', `${what} has no body`);
      return;
    }
    const type = reply.headers['content-type'].split(';')[0];
    assert.ok(node.content[type], `${what}: ${type} is not documented`);
    const schema = `${place}${pointer('content', type, 'schema')}`;
    if (type === 'text/event-stream') this.#checkStream(schema, reply, what);
    else this.validate(schema, reply.body ?? reply.text, what);
  }

  #checkHeaders(headers, place, reply, what) {
    const documented = new Map(Object.keys(headers).map((name) => [name.toLowerCase(), name]));
    for (const [lower, name] of documented) {
      const { node, place: where } = this.at(`${place}${pointer('headers', name)}`);
      const value = reply.headers[lower];
      if (value === undefined) {
        assert.ok(!node.required, `${what}: the header ${name} is missing`);
      } else {
        const whole = node.schema.type === 'integer' && /^\d+$/.test(value);
        this.validate(`${where}/schema`, whole ? Number(value) : value, `${what}, header ${name}`);
        this.#seen.add(`header ${lower}`);
      }
    }
    for (const name of Object.keys(reply.headers)) {
      assert.ok(documented.has(name) || PLAIN_HEADERS.has(name),
        `${what}: the header ${name} is not documented`);
    }
  }

  #checkStream(schema, reply, what) {
    reply.events = eventsOf(reply.text);
    for (const { name, data } of reply.events) {
      if (data === '[DONE]') continue;
      this.validate(schema, data, `${what}, event ${data.type ?? ''}`);
      if (name !== undefined) assert.equal(name, data.type, `${what}: the event's name`);
      for (const kind of this.#kinds(schema, data)) this.#seen.add(`event ${kind}`);
    }
  }

  /** "ChatEvent start", ...: which of the documented events this one is. */
  #kinds(schema, data) {
    const { node, place } = this.at(schema);
    return node.oneOf.filter((_, i) => this.#ajv.validate(
      { $ref: `${ROOT}#${place}/oneOf/${i}` }, data))
      .map((branch) => kindOf(place, branch, data.type));
  }

  /** What the document has and was never seen: operations with their statuses, headers, events. */
  missing() {
    const all = this.operations().flatMap(({ operation }) => Object.keys(operation.responses)
      .filter((status) => status !== 'default')
      .map((status) => `${operation.operationId} ${status}`));
    for (const { where } of this.operations()) {
      for (const [status] of Object.entries(this.at(`${where}/responses`).node)) {
        const { node, place } = this.at(`${where}${pointer('responses', status)}`);
        for (const name of Object.keys(node.headers ?? {})) all.push(`header ${name.toLowerCase()}`);
        if (node.content?.['text/event-stream']) {
          all.push(...this.#events(`${place}${pointer('content', 'text/event-stream', 'schema')}`));
        }
      }
    }
    return [...new Set(all)].filter((what) => !this.#seen.has(what)).sort();
  }

  #events(schema) {
    const { node, place } = this.at(schema);
    return node.oneOf.flatMap((branch, i) => {
      const type = this.at(`${place}/oneOf/${i}`).node.properties.type;
      return (type?.enum ?? [type?.const]).map((name) => `event ${kindOf(place, branch, name)}`);
    });
  }
}

const lastOf = (place) => place.split('/').at(-1);
const kindOf = (place, branch, type) => `${lastOf(place)}/${lastOf(branch.$ref)} ${type ?? ''}`.trim();

/** The events of a whole stream; comments are left out. */
function eventsOf(text) {
  assert.ok(text.endsWith('\n\n'), 'a stream ends with a whole event');
  return text.split('\n\n').filter((block) => block && !block.startsWith(':')).map((block) => {
    const match = /^(?:id: (req_[0-9A-Za-z]+:\d+)\n)?(?:event: (.*)\n)?data: (.*)$/.exec(block);
    assert.ok(match, `not an event: ${block}`);
    const [, id, name, data] = match;
    return { id, name, data: data === '[DONE]' ? data : JSON.parse(data) };
  });
}
