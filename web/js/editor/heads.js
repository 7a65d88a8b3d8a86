/** Names and roles of instances as people type them: "cyclist (subject)". */
import { BLANK, nameProblem, shorten, strip } from './text.js'

export const ROLES = ['subject', 'object', 'instance']
const LIKE_A_ROLE = 0.6 // from there on words in brackets are a role with a mistake in it
const HEAD = new RegExp(`^([^\\n]+?)[${BLANK}]*(?:[(\\uff08]([^()\\uff08\\uff09]*)([)\\uff09]?))?$`)

/** @typedef {{name: string, role: string | null}} Head */

/**
 * Name and role. Brackets that hold no role belong to the name.
 * @param {string} text
 * @returns {Head}
 * @throws {Error} for a mistyped role and for what is no name
 */
export function parseHead(text) {
  const whole = strip(text)
  const match = HEAD.exec(whole)
  const role = match?.[2] === undefined ? null : strip(match[2]).toLowerCase()
  const known = role !== null && ROLES.includes(role)
  const meant = role ? closest(role) : null
  if (match && meant && (!known || !match[3])) {
    throw new Error(
      `(${shorten(role ?? '', 40)}) is no role; write ${strip(match[1])} (${meant}). Roles are ${ROLES.join(', ')}`
    )
  }
  const name = match && known ? strip(match[1]) : whole
  const problem = nameProblem(name)
  if (problem) throw new Error(problem)
  return { name, role: known ? role : null }
}

/** @param {Head} head */
export function printHead({ name, role }) {
  return role ? `${name} (${role})` : name
}

/**
 * The role that a word is most like, where it is like one at all.
 * @param {string} word
 */
function closest(word) {
  const rated = ROLES.map((role) => ({ role, score: likeness(role, word) })).filter((one) => one.score >= LIKE_A_ROLE)
  rated.sort((one, other) => other.score - one.score || (one.role < other.role ? 1 : -1))
  return rated[0]?.role ?? null
}

/**
 * Twice the matching characters over all characters, as Python's `difflib` counts them (Ratcliff and Obershelp).
 * @param {string} one
 * @param {string} other
 */
function likeness(one, other) {
  const [a, b] = [[...one], [...other]]
  // A word so much longer is never like a role; this also keeps away from what difflib does to popular characters.
  if (b.length > 3 * a.length) return 0
  return (2 * matching(a, b)) / (a.length + b.length)
}

/**
 * Characters in the longest common block, and in those before and behind it.
 * @param {string[]} a
 * @param {string[]} b
 * @returns {number}
 */
function matching(a, b) {
  const { i, j, size } = longestBlock(a, b)
  if (!size) return 0
  return size + matching(a.slice(0, i), b.slice(0, j)) + matching(a.slice(i + size), b.slice(j + size))
}

/**
 * @param {string[]} a
 * @param {string[]} b
 */
function longestBlock(a, b) {
  let best = { i: 0, j: 0, size: 0 }
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < b.length; j++) {
      let size = 0
      while (i + size < a.length && a[i + size] === b[j + size]) size += 1
      if (size > best.size) best = { i, j, size }
    }
  }
  return best
}
