// The reference page: Swagger UI on /openapi.json, with a search over the operations. Addresses are
// relative, so that the page works behind a proxy that adds a prefix.
const words = (operation) => ['summary', 'description', 'operationId']
  .map((name) => operation.getIn(['operation', name], '')).concat(operation.get('path'))
  .join(' ').toLowerCase();

SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  validatorUrl: null, // the viewer's default is a host of its maker
  filter: true,
  defaultModelsExpandDepth: 0,
  defaultModelExpandDepth: 2,
  fn: {
    // The viewer itself looks at the names of the groups only.
    opsFilter: (groups, phrase) => groups
      .map((group, name) => group.update('operations', (list) => list.filter((operation) =>
        `${name} ${words(operation)}`.toLowerCase().includes(phrase.trim().toLowerCase()))))
      .filter((group) => group.get('operations').size > 0),
  },
  onComplete: () => document.querySelector('.operation-filter-input')
    ?.setAttribute('placeholder', 'Search: chat, /v1/messages, tokens ...'),
});
