/** What the graph around a node says: who feeds it, which names are bound behind it, which tokens a model makes. */
import { namesIn, timesIn, withTime } from './phrases.js'

/** @typedef {import('../../../tests/front/host').HostNode} HostNode */
/** @typedef {import('./editor.js').Bound} Bound */
/** @typedef {import('./editor.js').Timed} Timed */

const BIND = 'MatrixBindPrompt'
const PHRASES = 'phrases'
const FARTHEST = 2000 // nodes that are looked at

/**
 * @param {HostNode} node
 * @param {string} name
 */
export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name)

/**
 * @param {HostNode} node
 * @param {string} name of an input
 * @returns {HostNode | null} the node that is linked to it
 */
export function feeding(node, name) {
  const link = node.inputs?.find((input) => input.name === name)?.link
  return originOf(node, link)
}

/**
 * @param {HostNode} node
 * @param {unknown} link
 * @returns {HostNode | null}
 */
function originOf(node, link) {
  if (link === null || link === undefined || !node.graph) return null
  const found =
    node.graph.getLink?.(/** @type {number} */ (link)) ?? node.graph.links?.get?.(/** @type {number} */ (link))
  return found
    ? /** @type {HostNode | null} */ (/** @type {unknown} */ (node.graph.getNodeById(found.origin_id)))
    : null
}

/**
 * @param {HostNode} node
 * @returns {HostNode[]}
 */
function origins(node) {
  return (node.inputs ?? []).flatMap(({ link }) => originOf(node, link) ?? [])
}

/**
 * @param {HostNode} node
 * @returns {HostNode[]}
 */
function targets(node) {
  return (node.outputs ?? []).flatMap(({ links }) =>
    (links ?? []).flatMap((id) => {
      const link = node.graph?.getLink?.(id) ?? node.graph?.links?.get?.(id)
      const found = link && node.graph?.getNodeById(link.target_id)
      return found ? [/** @type {HostNode} */ (/** @type {unknown} */ (found))] : []
    })
  )
}

/**
 * Every node that can be reached, nearest first.
 * @param {HostNode[]} from
 * @param {(node: HostNode) => HostNode[]} next
 */
function reached(from, next) {
  const found = new Set(from)
  for (const node of found) {
    if (found.size > FARTHEST) break
    for (const other of next(node)) found.add(other)
  }
  return [...found]
}

/**
 * Nodes that take part in what comes of this one: those behind it, and all that feeds them.
 * @param {HostNode} node
 */
export function involved(node) {
  const behind = reached([node], targets)
  return [...new Set([...behind, ...reached(behind, origins)])]
}

/**
 * Names that phrases bind for what comes of this node.
 * @param {HostNode} node
 * @returns {Bound[]}
 */
export function boundNames(node) {
  const seen = new Set()
  return phrasesOf(node)
    .flatMap(namesIn)
    .filter(({ name }) => !seen.has(name) && seen.add(name))
}

/**
 * Verbs and words that phrases give a time for what comes of this node.
 * @param {HostNode} node
 * @returns {Timed[]}
 */
export function timedWords(node) {
  return binders(node).flatMap((one, place) =>
    timesIn(textOf(one)).map((words) => ({ ...words, place, linked: feeding(one, PHRASES) !== null }))
  )
}

/**
 * Writes another time behind words that `timedWords` gave.
 * @param {HostNode} node
 * @param {Timed} words
 * @param {import('./phrases.js').Time} time
 */
export function retimeWords(node, { place, line }, time) {
  const one = binders(node)[place]
  const widget = /** @type {any} */ (one && widgetOf(one, PHRASES))
  if (!widget) return
  widget.value = withTime(textOf(one), line, time)
  widget.callback?.(widget.value)
  one.setDirtyCanvas(true, true)
}

/**
 * What is bound for what comes of this node, a text for each prompt.
 * @param {HostNode} node
 */
function phrasesOf(node) {
  return binders(node).map(textOf)
}

/** @param {HostNode} node */
function binders(node) {
  return involved(node).filter(({ comfyClass }) => comfyClass === BIND)
}

/** @param {HostNode} node */
function textOf(node) {
  return String(widgetOf(node, PHRASES)?.value ?? '')
}

/**
 * The token grid of the model that takes part, as the nearest node that ran has told it.
 * @param {HostNode} node
 * @returns {import('./stage.js').Grid | null}
 */
export function gridOf(node) {
  for (const { properties } of involved(node)) {
    const grid = asGrid(properties?.matrix_grid)
    if (grid) return grid
  }
  return null
}

/**
 * @param {unknown} value whatever a workflow holds
 * @returns {import('./stage.js').Grid | null}
 */
export function asGrid(value) {
  const { token, frame, fit } = /** @type {Record<string, unknown>} */ (value ?? {})
  const pair = (/** @type {unknown} */ one) =>
    Array.isArray(one) && one.length === 2 && one.every((side) => Number.isInteger(side) && side > 0 && side <= 16384)
  if (!pair(token) || !pair(frame) || typeof fit !== 'string') return null
  return /** @type {import('./stage.js').Grid} */ ({ token, frame, fit })
}
