// Reads what a test runner left behind and prints "PASSED FAILED SKIPPED".
//
//   sum-tests.mjs unit FILE   Meson's testlog.json: one line per cmocka binary; the tests inside
//                             are counted, and a binary that broke without a count is one failure
//   sum-tests.mjs e2e FILE    TAP of `node --test`
import { readFileSync } from 'node:fs';

const [kind, file] = process.argv.slice(2);

function countOf(text, pattern) {
  return [...text.matchAll(pattern)].reduce((sum, match) => sum + Number(match[1]), 0);
}

// cmocka: "[  PASSED  ] 3 test(s).", "[  FAILED  ] 1 test(s), listed below:", "[  SKIPPED ] ..."
function unit(text) {
  const sum = [0, 0, 0];
  for (const line of text.split('\n').filter(Boolean)) {
    const { result, stdout = '', stderr = '' } = JSON.parse(line);
    const output = `${stdout ?? ''}\n${stderr ?? ''}`;
    const passed = countOf(output, /\[ +PASSED +\] (\d+) test/g);
    const failed = countOf(output, /\[ +FAILED +\] (\d+) test/g);
    const skipped = countOf(output, /\[ +SKIPPED +\] (\d+) test/g);
    if (result === 'SKIP') {
      sum[2] += 1;
    } else if (result === 'OK' || result === 'EXPECTEDFAIL') {
      sum[0] += passed || 1;
      sum[2] += skipped;
    } else {
      sum[0] += passed;
      sum[1] += failed || 1;
      sum[2] += skipped;
    }
  }
  return sum;
}

// The summary stands at the end; without it the runner itself was killed.
function e2e(text) {
  const last = (name) => {
    const all = [...text.matchAll(new RegExp(`^# ${name} (\\d+)$`, 'gm'))];
    return all.length ? Number(all.at(-1)[1]) : undefined;
  };
  if (last('pass') === undefined) return [0, 1, 0];
  return [last('pass'), last('fail') + last('cancelled'), last('skipped') + last('todo')];
}

let text = '';
try {
  text = readFileSync(file, 'utf8');
} catch {
  console.log('0 1 0');
  process.exit(0);
}
console.log((kind === 'unit' ? unit(text) : e2e(text)).join(' '));
