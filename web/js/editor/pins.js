/** Points that a person pins by a click: put into the nodes of the graph that record attention. */
import { involved, widgetOf } from './graph.js'
import { parsePoints, printPoint, withoutPoint, withPoint } from './points.js'

/** @typedef {import('../../../tests/front/host').HostNode} HostNode */
/** @typedef {import('./points.js').Point} Point */

/**
 * `read` gives no points for a text that cannot be read; `add` and `remove` throw there, and say what they did.
 * @typedef {{read: () => Point[], add: (point: Point) => string, remove: (point: Point) => string}} Pins
 */

const RECORD = ['MatrixSampleAttention', 'MatrixWatchAttention']
const POINTS = 'points'

/**
 * The points of those nodes that record what comes of a node, or what it shows.
 * @param {HostNode} node
 * @param {{before: () => void, after: () => void}} host told around a change
 * @returns {Pins | null} null where nobody records
 */
export function pinsOf(node, host) {
  const recording = involved(node).filter((one) => RECORD.includes(one.comfyClass ?? '') && free(one))
  if (!recording.length) return null
  const names = recording.map(({ title, id }) => `${title} (${id})`).join(', ')
  /** @param {(text: string) => string} edit */
  const change = (edit) => {
    const made = recording.map((one) => edit(textOf(one))) // all of them, before any is written
    host.before()
    for (const [i, one] of recording.entries()) {
      const widget = /** @type {any} */ (widgetOf(one, POINTS))
      if (widget.value === made[i]) continue
      widget.value = made[i]
      widget.callback?.(made[i])
      one.setDirtyCanvas(true, true)
    }
    host.after()
  }
  return {
    read() {
      try {
        return recording.flatMap((one) => parsePoints(textOf(one)))
      } catch {
        return []
      }
    },
    add(point) {
      change((text) => withPoint(text, point))
      return `Pinned ${printPoint(point)} in ${names}: the next run records where it looks.`
    },
    remove(point) {
      change((text) => withoutPoint(text, point))
      return `Took ${printPoint(point)} out of ${names}.`
    }
  }
}

/** @param {HostNode} node */
const textOf = (node) => String(widgetOf(node, POINTS)?.value ?? '')

/** Whether the node's points are typed, and come over no link. @param {HostNode} node */
function free(node) {
  const linked = node.inputs?.some(({ name, link }) => name === POINTS && link !== null && link !== undefined)
  return widgetOf(node, POINTS) !== undefined && !linked
}
