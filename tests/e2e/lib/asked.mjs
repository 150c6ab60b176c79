// What an upstream request said, without what the claude program always adds.

const REMINDER = /^<system-reminder>\nAs you answer the user's questions, you can use the /;

/** The conversation: [{role, content}] without the date reminder and cache marks. */
export function conversation(body) {
  return body.messages.map(({ role, content }) => ({
    role,
    content: (typeof content === 'string' ? [{ type: 'text', text: content }] : content)
      .filter((block) => !(block.type === 'text' && REMINDER.test(block.text)))
      .map(({ cache_control: _, ...block }) => block),
  }));
}

/** The same as pairs [role, joined text]. */
export function texts(body) {
  return conversation(body).map(({ role, content }) =>
    [role, content.map((block) => block.text ?? `<${block.type}>`).join('')]);
}

/** Everything but the conversation, comparable between two requests of one process. */
export function settings(body) {
  const { messages: _, ...rest } = body;
  return {
    ...rest,
    system: rest.system.map(({ cache_control: __, ...block }) => ({
      ...block,
      // a checksum of the message
      text: block.text.replace(/^(x-anthropic-billing-header: cc_version=[\d.]+)\.\w+/, '$1'),
    })),
    metadata: Object.keys(JSON.parse(rest.metadata.user_id)),
  };
}

/** The system texts after the two that the claude program sends by itself. */
export function system(body) {
  return body.system.slice(2).map((block) => block.text);
}
