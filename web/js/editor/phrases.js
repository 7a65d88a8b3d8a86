/**
 * Which words of a prompt name which instance, as people type it: `matrix_lib/core/words/phrases.py` reads the same text,
 * and shared cases hold the two together.
 */
import { BLANK, lines, strip } from './text.js'

const INSTANCES = ['subject', 'object', 'instance']
const NAME = new RegExp(`^[^${BLANK}:=|\\[\\]()#",](?:[^:=|\\[\\]()#",]{0,62}[^${BLANK}:=|\\[\\]()#",])?$`, 'u')
const VERB = new RegExp(`^verb[${BLANK}]*\\(([^\\n]*)\\)[${BLANK}]*$`, 'i')
const ROLE = new RegExp(`\\[[${BLANK}]*([\\p{L}\\p{N}_]*)[${BLANK}]*\\][${BLANK}]*$`, 'u')
const NTH = new RegExp(`#[${BLANK}]*([0-9]{1,6}|all)[${BLANK}]*$`, 'i')
const SECONDS = '([0-9]{1,6}(?:\\.[0-9]{1,6})?)'
const B = `[${BLANK}]*`
const TIME = new RegExp(
  `(?:^|[${BLANK}])@${B}(?:${SECONDS}${B}s?${B}-${B}${SECONDS}${B}s|${SECONDS}${B}s${B}-|-${B}${SECONDS}${B}s)${B}$`
)
const NEAR = 0.01 // frames: 1/24 s, as it is written, is frame 1
const BLANKS = new RegExp(`[${BLANK}]+`)
const LONGEST = 100_000
const LONGEST_LINE = 2_000
const MOST = 256

/** Seconds of the clip: from, and until; null: to its end. @typedef {[number, number | null]} Time */
/** occurrence: from 1; 0 is every one, null the first. @typedef {{pieces: string[], occurrence: number | null}} Words */
/**
 * One statement.
 * @typedef {object} Phrase
 * @property {string} name
 * @property {Words[]} words
 * @property {string} role subject, object, instance, verb or word
 * @property {string | null} subject
 * @property {string | null} object
 * @property {Time | null} time when its words hold
 * @property {number} line
 */

/**
 * @param {string} text
 * @returns {Phrase[]}
 * @throws {Error} with the line
 */
export function parsePhrases(text) {
  if ([...text].length > LONGEST) throw new Error(`the phrases have more than ${LONGEST} characters`)
  const found = statements(text).map(({ line, text }) => phraseAt(text, line))
  if (!found.length) throw new Error('no phrases given')
  if (found.length > MOST) throw new Error(`there are more than ${MOST} phrases`)
  checkNames(found)
  return withRoles(found)
}

/**
 * Names of instances, with when their words hold, as far as the lines can be read: somebody may be writing them.
 * @param {string} text
 * @returns {{name: string, role: string, time: Time | null}[]}
 */
export function namesIn(text) {
  const seen = new Set()
  return withRoles(readable(text))
    .filter(({ name, role }) => INSTANCES.includes(role) && !seen.has(name) && seen.add(name))
    .map(({ name, role, time }) => ({ name, role, time }))
}

/**
 * Verbs and words that hold at a time, as far as the lines can be read, each with its line, from 1.
 * @param {string} text
 * @returns {{name: string, time: Time, line: number}[]}
 */
export function timesIn(text) {
  return readable(text).flatMap(({ name, role, time, line }) =>
    time && !INSTANCES.includes(role) ? [{ name, time, line }] : []
  )
}

/**
 * The text with another time at the end of one line, from 1; all else stays as it is.
 * @param {string} text
 * @param {number} line
 * @param {Time} time
 */
export function withTime(text, line, time) {
  return lines(text)
    .map(({ text, end }, i) => (i === line - 1 ? `${text.replace(TIME, '')} ${timeText(time)}${end}` : text + end))
    .join('')
}

/**
 * A time as a person writes it.
 * @param {Time} time
 */
export function timeText([start, end]) {
  const told = (/** @type {number} */ seconds) => String(Number(seconds.toFixed(6)))
  return end === null ? `@${told(start)}s-` : `@${told(start)}-${told(end)}s`
}

/**
 * A time of which an end was dragged to a frame. It keeps one frame of the clip; until the last frame is to the clip's end.
 * @param {Time} time
 * @param {number} end 0 where it begins, 1 where it ends
 * @param {number} frame
 * @param {{fps: number, frames: number}} clip
 * @returns {Time}
 */
export function draggedTime([start, stop], end, frame, { fps, frames }) {
  if (end) {
    const last = Math.max(frame, Math.floor(start * fps + NEAR) + 1)
    return [start, last >= frames - 1 ? null : last / fps]
  }
  const stops = stop === null ? frames : Math.min(frames, Math.ceil(stop * fps - NEAR))
  return [Math.max(0, Math.min(frame, stops - 1)) / fps, stop]
}

/**
 * Lines that can be read.
 * @param {string} text
 */
function readable(text) {
  return statements(text).flatMap(({ line, text }) => {
    try {
      return [phraseAt(text, line)]
    } catch {
      return []
    }
  })
}

/** @param {string} text */
function statements(text) {
  return lines(text)
    .map(({ text }, i) => ({ text, line: i + 1 }))
    .filter(({ text }) => strip(text) && !strip(text).startsWith('#'))
}

/**
 * @param {string} text
 * @param {number} line
 * @returns {Phrase}
 */
function phraseAt(text, line) {
  if ([...text].length > LONGEST_LINE) throw new Error(`line ${line} has more than ${LONGEST_LINE} characters`)
  try {
    return { ...timed(strip(text)), line }
  } catch (error) {
    throw new Error(`line ${line}: ${/** @type {Error} */ (error).message}`)
  }
}

/** @typedef {Omit<Phrase, 'line'>} Said */

/**
 * @param {string} text
 * @returns {Said}
 */
function timed(text) {
  const mark = TIME.exec(text)
  if (!mark) return statement(text)
  const until = mark[2] ?? mark[4]
  const [start, end] = [Number(mark[1] ?? mark[3] ?? 0), until === undefined ? null : Number(until)]
  if (end !== null && end <= start) {
    throw new Error(`a time is @START-ENDs in seconds, the end behind the start; got ${strip(mark[0])}`)
  }
  return { ...statement(strip(text.slice(0, mark.index))), time: [start, end] }
}

/**
 * @param {string} text
 * @returns {Said}
 */
function statement(text) {
  const [head, ...calls] = split(text, '=')
  if (calls.length > 1) throw new Error("one '=' a line: WORDS = verb(SUBJECT -> OBJECT)")
  if (calls.length) return verb(head, calls[0])
  const mark = ROLE.exec(text)
  const role = mark ? mark[1].toLowerCase() : ''
  const said = mark ? text.slice(0, mark.index) : text
  if (mark && ![...INSTANCES, 'word'].includes(role)) {
    throw new Error(`a role is [subject], [object], [instance] or [word]; got [${role}]`)
  }
  const { name, rest } = nameAndRest(said)
  const words = split(rest, '|').map(parseWords)
  const found = { words, subject: null, object: null, time: null }
  if (name !== null) return { ...found, name, role: role || 'instance' }
  if (role && role !== 'word') throw new Error(`an instance needs a name: write NAME: ${strip(rest)} [${role}]`)
  return { ...found, name: printWords(words[0]), role: 'word' }
}

/**
 * @param {string} head
 * @param {string} call
 * @returns {Said}
 */
function verb(head, call) {
  const match = VERB.exec(strip(call))
  const time = match ? null : /\)\s*(@.*)/.exec(call)
  if (time) throw new Error(`one time a line, in seconds, is written @0-1.5s, @2s- or @-2s; got ${strip(time[1])}`)
  if (!match) throw new Error(`after '=' stands verb(SUBJECT -> OBJECT) or verb(SUBJECT); got ${strip(call)}`)
  const ends = match[1].replaceAll('\u2192', '->').split('->').map(strip)
  if (ends.length > 2 || !ends.every((end) => end)) {
    throw new Error('a verb joins one subject and at most one object, verb(SUBJECT -> OBJECT)')
  }
  const { name, rest } = nameAndRest(head)
  const words = parseWords(rest)
  const own = name || words.pieces.join(' ... ')
  return { name: own, words: [words], role: 'verb', subject: ends[0], object: ends[1] ?? null, time: null }
}

/** @param {string} text */
function nameAndRest(text) {
  const parts = split(text, ':')
  if (parts.length === 1) return { name: null, rest: text }
  const name = strip(parts[0])
  if (!NAME.test(name)) throw new Error(`'${name}' is no name (up to 64 characters, none of : = | [ ] ( ) # , ")`)
  return { name, rest: parts.slice(1).join(':') }
}

/**
 * Splits at `sign` outside of double quotes.
 * @param {string} text
 * @param {string} sign
 */
function split(text, sign) {
  const parts = ['']
  let quoted = false
  for (const character of text) {
    if (character === '"') quoted = !quoted
    if (character === sign && !quoted) parts.push('')
    else parts[parts.length - 1] += character
  }
  return parts
}

/**
 * @param {string} text
 * @returns {Words}
 */
function parseWords(text) {
  let said = strip(text)
  /** @type {number | null} */
  let occurrence = null
  const mark = said.endsWith('"') ? null : NTH.exec(said)
  if (mark) {
    occurrence = mark[1].toLowerCase() === 'all' ? 0 : Number(mark[1])
    if (mark[1] === '0') throw new Error('occurrences count from 1: write #1 for the first, #all for every one')
    said = strip(said.slice(0, mark.index))
  }
  const quoted = said.length > 1 && said.startsWith('"') && said.endsWith('"')
  const pieces = quoted ? [said.slice(1, -1)] : said.split(/\.\.\.|\u2026/)
  if (!pieces.every((piece) => strip(piece))) throw new Error(`words are missing in '${said}'`)
  return { pieces: pieces.map((piece) => strip(piece).split(BLANKS).join(' ')), occurrence }
}

/** @param {Words} words */
function printWords({ pieces, occurrence }) {
  return pieces.join(' ... ') + (occurrence === null ? '' : `#${occurrence || 'all'}`)
}

/** @param {Phrase[]} found */
function checkNames(found) {
  const seen = new Set()
  for (const { name, line } of found) {
    if (seen.has(name)) throw new Error(`line ${line}: the name '${name}' is taken`)
    seen.add(name)
  }
  const known = found.filter(({ role }) => INSTANCES.includes(role)).map(({ name }) => name)
  for (const { role, subject, object, line } of found) {
    for (const end of [subject, object]) {
      if (role === 'verb' && end !== null && !known.includes(end)) {
        throw new Error(`line ${line}: the verb names '${end}', which is no instance here`)
      }
    }
  }
}

/**
 * Instances without a role of their own take it from the verbs, where all verbs agree.
 * @param {Phrase[]} found
 */
function withRoles(found) {
  const verbs = found.filter(({ role }) => role === 'verb')
  const subjects = new Set(verbs.map(({ subject }) => subject))
  const objects = new Set(verbs.map(({ object }) => object))
  return found.map((one) => {
    const told = subjects.has(one.name) !== objects.has(one.name)
    if (one.role !== 'instance' || !told) return one
    return { ...one, role: subjects.has(one.name) ? 'subject' : 'object' }
  })
}
