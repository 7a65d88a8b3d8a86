/**
 * Text as Python reads it: its blanks, its lines, its names. The grammar has two readers, and they must not differ by a
 * no-break space.
 */

/** Inside of a character class: what Python's `\s` and `str.strip` take for blank. */
export const BLANK = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'

const EDGES = new RegExp(`^[${BLANK}]+|[${BLANK}]+$`, 'g')
const BLANKS = new RegExp(`[${BLANK}]+`)
// biome-ignore lint/suspicious/noControlCharactersInRegex: Python ends lines at them
const LINE_END = /\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/g
const JOINERS = /[\u200c\u200d]/g // inside emoji and Persian words
const UNPRINTABLE = /[\p{C}\p{Z}]/u
const LONGEST_NAME = 200

/**
 * Without blanks at both ends.
 * @param {string} text
 */
export function strip(text) {
  return text.replace(EDGES, '')
}

/**
 * Lines with what ends each of them: joined they are the text again.
 * @param {string} text
 * @returns {{text: string, end: string}[]}
 */
export function lines(text) {
  /** @type {{text: string, end: string}[]} */
  const found = []
  let start = 0
  for (const match of text.matchAll(LINE_END)) {
    found.push({ text: text.slice(start, match.index), end: match[0] })
    start = match.index + match[0].length
  }
  if (start < text.length) found.push({ text: text.slice(start), end: '' })
  return found
}

/**
 * A text that fits into a message.
 * @param {string} text
 * @param {number} length
 */
export function shorten(text, length) {
  const characters = [...text]
  return characters.length <= length
    ? text
    : `${characters.slice(0, length).join('')}... (${characters.length} characters)`
}

/**
 * What two spellings of one name have in common: composed letters, one blank between words, no case.
 * @param {string} name
 */
export function nameKey(name) {
  const folded = [...name.normalize('NFC')].map(folded1).join('').normalize('NFC')
  return folded
    .split(BLANKS)
    .filter((word) => word)
    .join(' ')
}

/**
 * One character without case; JavaScript has no case folding of its own.
 * @param {string} character
 */
function folded1(character) {
  return character === '\u0131' ? character : character.toLowerCase().toUpperCase().toLowerCase()
}

/**
 * What is wrong with a name of an instance; empty where it is one.
 * @param {string} name
 */
export function nameProblem(name) {
  if ([...name].length > LONGEST_NAME) {
    return `names of instances have at most ${LONGEST_NAME} characters; got ${shorten(name, 40)}`
  }
  const said = name.replace(JOINERS, '')
  if (!said || said !== strip(said) || UNPRINTABLE.test(said.replaceAll(' ', ''))) {
    return `an instance needs a name of printable characters, without blanks around it; got '${shorten(name, 80)}'`
  }
  return ''
}
