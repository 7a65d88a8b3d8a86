/**
 * The text of tracks as lines or JSON, read and printed. What nobody edits is printed as it was typed: notes, blanks,
 * units and all. `matrix_lib/core/tracks/text.py` reads the same grammar; shared cases hold the two together.
 */
import { parseHead, printHead } from './heads.js'
import { parseJson } from './json.js'
import { BLANK, lines, nameKey, shorten, strip } from './text.js'
import {
  boxOfJson,
  boxToJson,
  maskOfJson,
  parseBox,
  parseMaskAlone,
  parsePrompt,
  printBox,
  printPrompt,
  promptOfJson,
  promptToJson
} from './values.js'

/** @typedef {import('./values.js').Box} Box */
/** @typedef {import('./values.js').Prompt} Prompt */
/** @typedef {Box | Prompt | null} Value null: the instance leaves */
/** @typedef {{frame: number, value: Value, bare: boolean}} Key bare: typed without its frame, which is 0 */
/** A piece between semicolons; `raw` until it is edited. @typedef {{raw: string | null, key: Key | null}} Part */
/** @typedef {{name: string, role: string | null, head: string | null, parts: Part[]}} Instance */
/** A line that says nothing, or an instance. @typedef {{note: string, end: string} | {instance: Instance, end: string}} Item */
/** @typedef {{kind: Kind, form: 'lines' | 'json', items: Item[]}} Doc */

/**
 * What stands behind a frame, in each form of the text.
 * @typedef {object} Kind
 * @property {'boxes' | 'prompts' | 'masks'} name
 * @property {(text: string) => Value} parse
 * @property {(value: any) => string} print
 * @property {(value: import('./json.js').Json) => Value} fromJson
 * @property {(value: any) => unknown} toJson
 */

/** @type {Kind} */
export const BOXES = {
  name: 'boxes',
  parse: (text) => parseBox(text.replace(/^[[\]() ]+|[[\]() ]+$/g, '')),
  print: printBox,
  fromJson: boxOfJson,
  toJson: boxToJson
}
/** @type {Kind} */
export const PROMPTS = {
  name: 'prompts',
  parse: parsePrompt,
  print: printPrompt,
  fromJson: promptOfJson,
  toJson: promptToJson
}

/** Painted masks alone. @type {Kind} */
export const MASKS = {
  name: 'masks',
  parse: parseMaskAlone,
  print: printPrompt,
  fromJson: maskOfJson,
  toJson: promptToJson
}

const OFF = ['off', 'none', 'absent', 'gone']
const KEY = new RegExp(
  `^[${BLANK}]*(?:(?:frame[${BLANK}]*)?([0-9]+)[${BLANK}]*[:=][${BLANK}]*)?([^]*?)[${BLANK}]*$`,
  'i'
)
const FRAME = /^[0-9]{1,9}$/
const MOST_DIGITS = 9
const LONGEST = 1_000_000

/** A text that is none of ours, and where. */
export class GrammarError extends Error {
  /**
   * @param {string} message
   * @param {number} line counted from 1; 0 where there is no one line
   */
  constructor(message, line = 0) {
    super(line ? `line ${line}: ${message}` : message)
    this.name = 'GrammarError'
    this.line = line
  }
}

/**
 * @param {string} text
 * @param {Kind} kind
 * @returns {Doc} without instances for an empty text
 * @throws {GrammarError}
 */
export function parse(text, kind) {
  if (text.length > LONGEST && [...text].length > LONGEST) {
    throw new GrammarError(`this text has ${[...text].length} characters; ${LONGEST} are the most`)
  }
  const json = strip(text).startsWith('{')
  const items = json ? jsonItems(text, kind) : lines(text).map(({ text, end }, i) => lineItem(text, end, i + 1, kind))
  checkNames(items, json)
  return { kind, form: json ? 'json' : 'lines', items }
}

/**
 * The text of a document; `print(parse(text))` is `text` where it has lines.
 * @param {Doc} doc
 * @returns {string}
 */
export function print(doc) {
  if (doc.form === 'json') return printJson(doc)
  return doc.items
    .map((item) => ('note' in item ? item.note : printInstance(item.instance, doc.kind)) + item.end)
    .join('')
}

/**
 * @param {Doc} doc
 * @returns {Instance[]} in the order of the text
 */
export function instances(doc) {
  return doc.items.flatMap((item) => ('instance' in item ? [item.instance] : []))
}

/**
 * @param {Instance} instance
 * @returns {Key[]} by frame
 */
export function keysOf(instance) {
  return instance.parts.flatMap((part) => part.key ?? []).sort((one, other) => one.frame - other.frame)
}

/**
 * @param {Instance} instance
 * @param {Kind} kind
 */
function printInstance(instance, kind) {
  const head = instance.head ?? printHead(instance)
  return `${head}:${instance.parts.map((part) => part.raw ?? printPart(part, kind)).join(';')}`
}

/**
 * @param {Part} part
 * @param {Kind} kind
 */
function printPart({ key }, kind) {
  if (!key) return ''
  const value = key.value === null ? 'off' : kind.print(key.value)
  return key.bare ? ` ${value}` : ` ${key.frame}: ${value}`
}

/** @param {Doc} doc */
function printJson(doc) {
  const entries = instances(doc).map((instance) => {
    const keys = keysOf(instance).map(({ frame, value }) => {
      return `"${frame}": ${JSON.stringify(value === null ? null : doc.kind.toJson(value))}`
    })
    return `  ${JSON.stringify(printHead(instance))}: {${keys.join(', ')}}`
  })
  return `{\n${entries.join(',\n')}\n}`
}

/**
 * @param {string} text
 * @param {string} end
 * @param {number} number
 * @param {Kind} kind
 * @returns {Item}
 */
function lineItem(text, end, number, kind) {
  const line = strip(text)
  if (!line || line.startsWith('#')) return { note: text, end }
  const colon = text.indexOf(':')
  if (colon < 0 || !strip(text.slice(colon + 1))) {
    throw new GrammarError(`a name, a colon and numbers are needed, like  van: 0 30 300 272`, number)
  }
  try {
    const head = text.slice(0, colon)
    const parts = text
      .slice(colon + 1)
      .split(';')
      .map((raw) => linePart(raw, kind))
    const frames = parts.flatMap((part) => part.key?.frame ?? [])
    const twice = frames.find((frame, i) => frames.indexOf(frame) !== i)
    if (twice !== undefined) throw new Error(`two keys for frame ${twice}`)
    return { instance: { ...parseHead(head), head, parts }, end }
  } catch (error) {
    throw new GrammarError(/** @type {Error} */ (error).message, number)
  }
}

/**
 * @param {string} raw
 * @param {Kind} kind
 * @returns {Part}
 */
function linePart(raw, kind) {
  if (!strip(raw)) return { raw, key: null }
  const [, frame, value] = /** @type {RegExpExecArray} */ (KEY.exec(raw))
  if (frame?.length > MOST_DIGITS) throw new Error(`a frame number of ${frame.length} digits`)
  const off = OFF.includes(value.toLowerCase())
  return { raw, key: { frame: Number(frame ?? 0), value: off ? null : kind.parse(value), bare: frame === undefined } }
}

/**
 * @param {string} text
 * @param {Kind} kind
 * @returns {Item[]}
 */
function jsonItems(text, kind) {
  /** @type {import('./json.js').Json} */
  let found
  try {
    found = parseJson(text)
  } catch (error) {
    throw new GrammarError(`this begins like JSON but is none: ${/** @type {Error} */ (error).message}`)
  }
  return [.../** @type {Map<string, any>} */ (found)].map(([head, keys]) => {
    try {
      return { instance: { ...parseHead(head), head: null, parts: jsonParts(keys, kind) }, end: '' }
    } catch (error) {
      throw new GrammarError(`'${shorten(head, 80)}': ${/** @type {Error} */ (error).message}`)
    }
  })
}

/**
 * @param {import('./json.js').Json} keys
 * @param {Kind} kind
 * @returns {Part[]}
 */
function jsonParts(keys, kind) {
  if (!(keys instanceof Map) || ![...keys.keys()].every((frame) => FRAME.test(frame))) {
    throw new Error('key frames are needed: {"0": ..., "12": ...}')
  }
  if (new Set([...keys.keys()].map(Number)).size < keys.size) throw new Error('two keys for one frame')
  return [...keys].map(([frame, value]) => ({
    raw: null,
    key: { frame: Number(frame), value: value === null ? null : kind.fromJson(value), bare: false }
  }))
}

/**
 * @param {Item[]} items
 * @param {boolean} json
 */
function checkNames(items, json) {
  /** @type {Map<string, string>} */
  const seen = new Map()
  items.forEach((item, i) => {
    if (!('instance' in item)) return
    const { name } = item.instance
    const first = seen.get(nameKey(name))
    if (first !== undefined) {
      const both = first === name ? `'${name}'` : `'${first}' and '${name}', which are one name`
      throw new GrammarError(
        `two instances are called ${both}; write all key frames of one instance on its one line`,
        json ? 0 : i + 1
      )
    }
    seen.set(nameKey(name), name)
  })
}
