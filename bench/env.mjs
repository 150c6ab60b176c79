// env.mjs - the environment of a claude program that is driven without claudegate.

export const directEnv = (home, upstream) => ({
  PATH: '/usr/local/bin:/usr/bin:/bin', LANG: 'C.UTF-8', HOME: home,
  ANTHROPIC_BASE_URL: upstream, ANTHROPIC_API_KEY: 'bench-dummy',
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1', DISABLE_AUTOUPDATER: '1',
  CLAUDE_CODE_DISABLE_ATTACHMENTS: '1', CLAUDE_CODE_MAX_RETRIES: '0',
  CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK: '1', DISABLE_COMPACT: '1',
});
