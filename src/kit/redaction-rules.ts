// What counts as a secret or a personal datum in a text. Shapes are those that issuers document or that public scanners use;
// a rule may look twice (checksums, placeholders) before it speaks.
export interface RedactionRule {
  readonly name: string;
  /** With the flags `g` and, where groups are used, `d`: the group `secret` is what is taken out, else the whole match. */
  readonly pattern: RegExp;
  /** In lower case: what stands in every text that the pattern finds. Finding out that it is absent costs next to nothing. */
  readonly needs?: string;
  readonly accepts?: (match: string, groups: Record<string, string | undefined>) => boolean;
}

const START = "(?<![A-Za-z0-9_])";
const END = "(?![A-Za-z0-9_-])";
const token = (body: string, end = END): RegExp => new RegExp(`${START}${body}${end}`, "g");

/** What stands in examples and templates instead of a password. */
function isPlaceholder(password: string | undefined): boolean {
  const text = password ?? "";
  if (text.length < 4 || new Set(text).size === 1) return true;
  return /^(?:my|your|the)?[-_]?pass(?:word|wd)$|your[-_]|replace[-_]|changeme|[${}<>[\]%()]/i.test(text);
}

/** Luhn's check digit, as payment cards have it (ISO/IEC 7812-1). */
export function luhn(digits: string): boolean {
  let sum = 0;
  for (let i = 0; i < digits.length; i++) {
    let digit = Number(digits[digits.length - 1 - i]);
    if (i % 2 === 1) digit = digit > 4 ? digit * 2 - 9 : digit * 2;
    sum += digit;
  }
  return sum % 10 === 0;
}

/** Remainder 1 modulo 97 (ISO 13616). */
export function iban(text: string): boolean {
  const plain = text.replaceAll(" ", "");
  let rest = 0;
  for (const char of plain.slice(4) + plain.slice(0, 4)) {
    const value = /\d/.test(char) ? char : String((char.codePointAt(0) ?? 0) - 55);
    for (const digit of value) rest = (rest * 10 + Number(digit)) % 97;
  }
  return rest === 1;
}

const PEM =
  /-----BEGIN (?<type>(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?)-----(?<body>(?:\\[nr]|[^-]|-(?!----))+)-----END \k<type>-----/g;

/** A key that is there in earnest: enough base64, and not the same character over and over. */
function isKeyBody(body: string | undefined): boolean {
  const text = (body ?? "").replaceAll(/\\[nr]|\s|Proc-Type:[^\n]*|DEK-Info:[^\n]*/g, "");
  return text.length >= 64 && new Set(text).size > 10;
}

export const SECRET_RULES: readonly RedactionRule[] = [
  { name: "1password", pattern: token("ops_eyJ[A-Za-z0-9+/=_-]{100,}", "") },
  { name: "anthropic", pattern: token("sk-ant-(?:api\\d{2}|admin\\d{2})-[A-Za-z0-9_-]{80,}", "") },
  { name: "aws", pattern: token("(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}", "(?![A-Za-z0-9])") },
  {
    name: "aws",
    pattern:
      /(?:AWS|aws|Aws)?_?(?:SECRET|secret|Secret)_?(?:ACCESS|access|Access)?_?(?:KEY|key|Key)["']?\s*(?::|=>|=)\s*["']?(?<secret>[A-Za-z0-9/+=]{40})(?![A-Za-z0-9/+=])/dg,
  },
  {
    name: "aws",
    pattern:
      /(?:AWS|aws|Aws)?_?(?:ACCOUNT|account|Account)_?(?:ID|id|Id)?["']?\s*(?::|=>|=)\s*["']?(?<secret>\d{4}-?\d{4}-?\d{4})(?!\d)/dg,
    needs: "account",
  },
  {
    name: "azure",
    pattern:
      /(?:azure|arm|ad)?_?(?:tenant|client|subscription)_?id["']?\s*(?::=|:|=>|=)\s*["'`]?(?<secret>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/dgi,
  },
  {
    name: "azure",
    pattern: /(?:azure|arm|ad)_?client_?secret["']?\s*(?::=|:|=>|=)\s*["'`]?(?<secret>[A-Za-z0-9_~.+/=-]{20,})/dgi,
    needs: "secret",
  },
  {
    name: "basicauth",
    pattern:
      /(?<![a-z0-9+.-])(?:https?|ftps?):\/\/(?<user>[^\s:/@"'`<>]{1,128}):(?<password>[^\s/@"'`<>]{1,256})@[a-z0-9.-]+/gi,
    accepts: (_match, { user, password }) => !/[${}<>[\]%*()]/.test(user ?? "") && !isPlaceholder(password),
  },
  {
    name: "database-connection-string",
    pattern:
      /(?:jdbc:)?(?:mongodb(?:\+srv)?|mysql|mariadb|postgres(?:ql)?|redis(?:s)?|amqps?):\/\/(?<user>[^\s:/"'`<>]{1,128}):(?<password>[^\s/"'`<>]{1,256})@(?<host>[^\s"'`<>)/]+)[^\s"'`<>)]*/gi,
    needs: "://",
    accepts: (_match, { user, password }) =>
      !/[${}<>[\]%()]/.test(user ?? "") && user !== password && !isPlaceholder(password),
  },
  { name: "cloudflare", pattern: token("(?:cfat|cfut|cfk)_[A-Za-z0-9]{40}[0-9a-f]{8}") },
  { name: "databricks", pattern: token("dapi[0-9a-fA-F]{32}(?:-\\d)?", "(?![A-Za-z0-9_])") },
  { name: "docker", pattern: token("dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}", "") },
  { name: "figma", pattern: token("fig[du]_[A-Za-z0-9_-]{40,}", "") },
  {
    name: "gcp",
    pattern: /"private_key"\s*:\s*"(?<secret>-----BEGIN PRIVATE KEY-----[^"]{100,})"/dg,
  },
  { name: "gcp", pattern: token("AIza[A-Za-z0-9_-]{35}") },
  { name: "github", pattern: token("gh[pousr]_[A-Za-z0-9]{36,}", "(?![A-Za-z0-9])") },
  { name: "github", pattern: token("ghs_\\d+_eyJ[A-Za-z0-9_.-]{20,}", "") },
  { name: "github", pattern: token("github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59,}", "") },
  { name: "gitlab", pattern: token("gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat|ffct)-[A-Za-z0-9_.-]{20,}", "") },
  { name: "grafana", pattern: token("glc_eyJ[A-Za-z0-9+/=]{20,}", "") },
  { name: "grafana", pattern: token("glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}") },
  { name: "groq", pattern: token("gsk_[A-Za-z0-9]{52}", "(?![A-Za-z0-9])") },
  { name: "hashicorp-vault", pattern: token("hv[sbr]\\.[A-Za-z0-9_-]{90,}", "") },
  { name: "huggingface", pattern: token("(?:hf|api_org)_[A-Za-z]{34}", "(?![A-Za-z0-9])") },
  { name: "linear", pattern: token("lin_(?:api|oauth)_[A-Za-z0-9]{40,}", "") },
  { name: "notion", pattern: token("ntn_\\d{11}[A-Za-z0-9]{35}", "(?![A-Za-z0-9])") },
  { name: "npm", pattern: token("npm_[A-Za-z0-9]{36}", "(?![A-Za-z0-9])") },
  { name: "npm", pattern: /_auth(?:Token)?\s*=\s*(?<secret>(?!\$\{)[^\s"']{8,})/dg },
  { name: "npm", pattern: /https?:\/\/(?<secret>[A-Za-z0-9_]{20,}):x-oauth-basic@/dg },
  {
    name: "openai",
    pattern: token("sk-(?:(?:proj|svcacct|admin)-)?[A-Za-z0-9_-]{20,120}T3BlbkFJ[A-Za-z0-9_-]{20,120}", ""),
  },
  { name: "privatekey", pattern: PEM, accepts: (_match, { body }) => isKeyBody(body) },
  {
    name: "secp256k1-privatekey",
    pattern: /(?<![A-Za-z0-9])(?:0x)?(?<secret>[0-9a-fA-F]{64})(?![A-Za-z0-9])/dg,
    accepts: (match, groups) => {
      const hex = groups["secret"] ?? match;
      const order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
      return /[1-9a-f]/i.test(hex) && hex.toLowerCase() < order && new Set(hex.toLowerCase()).size > 6;
    },
  },
  { name: "sendgrid", pattern: token("SG\\.[A-Za-z0-9_-]{20,24}\\.[A-Za-z0-9_-]{39,50}", "") },
  { name: "shopify", pattern: token("shp(?:ss|at|ca|pa)_[A-Za-z0-9]{32,}", "") },
  { name: "slack", pattern: token("xox[abeoprs]-[A-Za-z0-9-]{10,}", "") },
  { name: "slack", pattern: token("xapp-\\d+-[A-Za-z0-9]+-\\d+(?:-[a-f0-9]+)?", "") },
  { name: "slack", pattern: /https:\/\/hooks\.slack\.com\/(?:services|workflows|triggers)\/[A-Za-z0-9/_-]{10,}/g },
  { name: "stripe", pattern: token("(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{24,}", "") },
  { name: "tailscale", pattern: /(?<![A-Za-z])tskey-[a-z]+-[A-Za-z0-9]{8,}-[A-Za-z0-9]{16,}/g },
  { name: "vercel", pattern: token("vc[piark]_[A-Za-z0-9]{24,}", "") },
  {
    name: "bearer",
    // The secret is looked ahead at: one that stands in it begins a find of its own, as with a look behind, which costs more.
    pattern: /\b[Aa]uthorization["']?\s*[:=]\s*["']?(?:Bearer|Basic)\s(?=(?<secret>[A-Za-z0-9._~+/=-]{16,}))/dg,
  },
  { name: "jwt", pattern: token("eyJ[A-Za-z0-9_-]{10,}\\.eyJ[A-Za-z0-9_-]{10,}\\.[A-Za-z0-9_-]{20,}", "") },
];

export const PERSONAL_RULES: readonly RedactionRule[] = [
  {
    name: "card",
    pattern: /(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d-])/g,
    accepts: (match) => {
      const digits = match.replaceAll(/[ -]/g, "");
      return /^(?:4|5[1-5]|2[2-7]|3[47]|6(?:011|5))/.test(digits) && luhn(digits);
    },
  },
  {
    name: "iban",
    pattern: /\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b/g,
    accepts: (match) => iban(match),
  },
  {
    name: "email",
    pattern: /(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])/g,
  },
  { name: "phone", pattern: /(?<![\w.+-])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,12}(?![\w-])/g },
];
