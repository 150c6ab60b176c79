// The names that an SDK's own TypeScript types give the parameters of a call.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { ROOT } from './gateway.mjs';

/** Member names of `interface NAME` in a declaration file below node_modules, in their order. */
export function parametersOf(file, name) {
  const text = readFileSync(join(ROOT, 'node_modules', file), 'utf8');
  const found = new RegExp(`^export interface ${name}(?: extends [^{]*)? \\{\\n([\\s\\S]*?)^\\}`, 'm')
    .exec(text);
  assert.ok(found, `${file} has no interface ${name}: the SDK has changed its shape`);
  const names = [...found[1].matchAll(/^ {4}'?(\w+)'?\??:/gm)].map((match) => match[1]);
  assert.ok(names.includes('model') && names.length > 8, `${name}: ${names}`);
  return names;
}
