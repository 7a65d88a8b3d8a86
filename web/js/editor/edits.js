/** Edits of a document: each gives a new one, in which all that it does not touch is as it was typed. */
import { instances, parse, print } from './grammar.js'
import { nameKey } from './text.js'

/** @typedef {import('./grammar.js').Doc} Doc */
/** @typedef {import('./grammar.js').Instance} Instance */
/** @typedef {import('./grammar.js').Value} Value */
/** @typedef {import('./grammar.js').Part} Part */

/**
 * @param {Doc} doc
 * @param {string} name
 * @returns {Instance | undefined} whichever way its name is spelled
 */
export function find(doc, name) {
  return instances(doc).find((one) => nameKey(one.name) === nameKey(name))
}

/**
 * The value at a frame: put there, or in place of the one that is.
 * @param {Doc} doc
 * @param {string} name
 * @param {number} frame
 * @param {Value} value
 * @returns {Doc}
 */
export function setKey(doc, name, frame, value) {
  return changed(doc, name, (instance) => ({ ...instance, parts: withKey(instance.parts, frame, value) }))
}

/**
 * Without the key at a frame. The last one takes the instance along.
 * @param {Doc} doc
 * @param {string} name
 * @param {number} frame
 * @returns {Doc}
 */
export function dropKey(doc, name, frame) {
  const instance = find(doc, name)
  if (!instance?.parts.some((part) => part.key && part.key.frame !== frame)) return remove(doc, name)
  return changed(doc, name, (one) => ({ ...one, parts: one.parts.filter((part) => part.key?.frame !== frame) }))
}

/**
 * A key at another frame; one that is there goes.
 * @param {Doc} doc
 * @param {string} name
 * @param {number} from
 * @param {number} to
 * @returns {Doc}
 */
export function moveKey(doc, name, from, to) {
  const key = find(doc, name)?.parts.find((part) => part.key?.frame === from)?.key
  if (!key || from === to) return doc
  return changed(doc, name, (instance) => ({
    ...instance,
    parts: withKey(
      instance.parts.filter((part) => part.key?.frame !== from),
      to,
      key.value
    )
  }))
}

/**
 * Another name or role.
 * @param {Doc} doc
 * @param {string} name
 * @param {import('./heads.js').Head} head
 * @returns {Doc}
 * @throws {Error} for what is no name here, or is taken
 */
export function rename(doc, name, head) {
  return whole(changed(doc, name, (instance) => ({ ...instance, ...head, head: null })))
}

/**
 * One more instance, at the end.
 * @param {Doc} doc
 * @param {import('./heads.js').Head} head
 * @param {number} frame
 * @param {Value} value
 * @returns {Doc}
 * @throws {Error} for what is no name here, or is taken
 */
export function add(doc, head, frame, value) {
  const parts = [{ raw: null, key: { frame, value, bare: false } }]
  const items = doc.items.map((item, i) => (i === doc.items.length - 1 && !item.end ? { ...item, end: '\n' } : item))
  return whole({ ...doc, items: [...items, { instance: { ...head, head: null, parts }, end: '' }] })
}

/**
 * @param {Doc} doc
 * @param {string} name
 * @returns {Doc}
 */
export function remove(doc, name) {
  const gone = find(doc, name)
  return { ...doc, items: doc.items.filter((item) => !('instance' in item) || item.instance !== gone) }
}

/**
 * The same document if its text says what it says: a name may hold what the text reads as something else.
 * @param {Doc} doc
 */
function whole(doc) {
  const names = (/** @type {Doc} */ one) => instances(one).map(({ name, role }) => `${name}\n${role}`)
  const again = parse(print(doc), doc.kind)
  if (JSON.stringify(names(again)) !== JSON.stringify(names(doc))) {
    throw new Error('this name cannot stand in the text: a colon or a # at its front means something else there')
  }
  return again
}

/**
 * @param {Doc} doc
 * @param {string} name
 * @param {(instance: Instance) => Instance} change
 * @returns {Doc}
 */
function changed(doc, name, change) {
  const wanted = find(doc, name)
  return {
    ...doc,
    items: doc.items.map((item) =>
      'instance' in item && item.instance === wanted ? { ...item, instance: change(item.instance) } : item
    )
  }
}

/**
 * @param {Part[]} parts
 * @param {number} frame
 * @param {Value} value
 * @returns {Part[]}
 */
function withKey(parts, frame, value) {
  const at = parts.findIndex((part) => part.key?.frame === frame)
  if (at >= 0) {
    const bare = parts[at].key?.bare ?? false
    return parts.map((part, i) => (i === at ? { raw: null, key: { frame, value, bare } } : part))
  }
  const later = parts.findIndex((part) => part.key && part.key.frame > frame)
  const last = parts.findLastIndex((part) => part.key)
  const place = later >= 0 ? later : last + 1
  return [...parts.slice(0, place), { raw: null, key: { frame, value, bare: false } }, ...parts.slice(place)]
}
