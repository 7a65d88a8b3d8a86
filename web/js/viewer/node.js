/**
 * The attention viewer in a node: opened by the id that the node sent, kept with the workflow, and in step with the node's
 * own fields, so that a queued picture agrees with what was chosen.
 */

import { pinsOf } from '../editor/pins.js'
import { Exhibit } from './exhibit.js'
import { goneMessage, mountViewer, viewerRoot } from './mount.js'
import { askingSource, errorOf } from './source.js'

/** @typedef {import('../../../tests/front/host').HostNode} HostNode */
/** @typedef {import('./choice.js').Fields} Fields */
/** @typedef {import('./panel.js').Viewer} Viewer */

/**
 * What of the host's page a viewer uses.
 * @typedef {{fetch: (path: string) => Promise<Response>, nodes: () => HostNode[], before: () => void,
 *   after: () => void}} Host
 */

/**
 * @typedef {object} Place
 * @property {HTMLElement} element
 * @property {string} id of what is shown
 * @property {string[]} earlier ids that this node showed before
 * @property {Viewer | null} viewer
 * @property {boolean} writing whether the fields are being written from here
 * @property {Live | null} live what of a run that goes on is shown
 * @property {boolean} busy whether that is on its way
 */
/** A run that goes on: its id, and a number that grows; without one it has ended. @typedef {{id: string, version?: number}} Live */

const KEY = 'matrix_viewer'
const SAMPLES = 'MatrixSampleAttention'
const COLLECTS = 'MatrixCollectCapture'
const SHOWS = 'MatrixAttentionPreview'
const READS = 'MatrixReadCapture'
const ID = /^[0-9a-f]{32}$/
const HEIGHT = 460
const NARROW = 520 // below this width picture and chart stand one above the other
const NARROW_HEIGHT = 680
const WIDTH = 320
const MOST_EARLIER = 4

/** Fields of the node and how their values are written. */
const WORDS = /** @type {Record<string, Record<string, string>>} */ ({
  kind: {
    v2t: 'words (video to text)',
    v2v: 'instances over time (video to video)',
    t2v: 'where words look (text to video)'
  },
  heat: { true: 'smooth', false: 'token cells' },
  colour_scale: { clip: 'one for the clip', frame: 'one for each frame' }
})

/** @type {WeakMap<HostNode, Place>} */
const places = new WeakMap()

/**
 * Opens the viewer of what a node sent after it ran.
 * @param {HostNode} node
 * @param {unknown} output
 * @param {Host} host
 */
export function viewOutput(node, output, host) {
  const sent = /** @type {any} */ (output)?.[KEY]
  const id = Array.isArray(sent) ? sent[0]?.id : undefined
  if (typeof id !== 'string' || !ID.test(id)) return
  const better = behind(node, SHOWS)
  // One that shows a finished run waits for its own news: what comes late must not take its place.
  const waiting = better.filter((other) => !places.get(other)?.viewer || places.get(other)?.live)
  for (const other of waiting) void liveIn(other, { id }, host)
  if (better.length) return
  if (node.properties[KEY] !== id) {
    host.before()
    node.properties[KEY] = id
    host.after()
  }
  open(node, id, host)
}

/**
 * Opens what a workflow has kept: the capture, while the host still has it.
 * @param {HostNode} node
 * @param {Host} host
 */
export function viewKept(node, host) {
  const id = node.properties?.[KEY]
  if (typeof id === 'string' && ID.test(id) && !behind(node, SHOWS).length) open(node, id, host)
}

/**
 * Shows what a run has recorded so far: in the previews behind the node that samples or collects, else in that node.
 * Nothing of it is kept with the workflow.
 * @param {HostNode} running
 * @param {Live} live
 * @param {Host} host
 */
export function viewLive(running, live, host) {
  if (typeof live.id !== 'string' || !ID.test(live.id) || !Number.isInteger(live.version)) return
  for (const node of running.comfyClass === SAMPLES ? [running] : behind(running, COLLECTS)) {
    const better = behind(node, SHOWS)
    for (const one of better.length ? better : [node]) liveIn(one, live, host)
  }
}

/**
 * @param {HostNode} node
 * @param {Live} live
 * @param {Host} host
 */
async function liveIn(node, live, host) {
  const place = places.get(node) ?? made(node)
  place.live = live
  if (!place.busy) await goOn(node, place, host)
}

/**
 * Nodes of a kind that are linked to one of a node's outputs.
 * @param {HostNode} node
 * @param {string} kind
 */
function behind(node, kind) {
  const links = (node.outputs ?? []).flatMap((output) => output.links ?? [])
  return links.flatMap((id) => {
    const link = node.graph?.getLink?.(id) ?? node.graph?.links?.get?.(id)
    const found = /** @type {HostNode | null} */ (
      /** @type {unknown} */ (node.graph?.getNodeById(link?.target_id ?? -1))
    )
    return found?.comfyClass === kind ? [found] : []
  })
}

/**
 * Brings a viewer up to the newest state of its run, as long as there is a newer one.
 * @param {HostNode} node
 * @param {Place} place
 * @param {Host} host
 */
async function goOn(node, place, host) {
  place.busy = true
  try {
    /** @type {Live | null} */
    let shown = null
    while (place.live && place.live !== shown) {
      /** @type {Live} */
      const live = place.live
      shown = live
      const source = sourceOf(live.id, host, live.version)
      if (place.viewer) {
        const exhibit = await Exhibit.open(source)
        if (place.live) place.viewer.swap(exhibit)
        continue
      }
      const viewer = await mountViewer(place.element, source, { fields: fieldsOfNode(node) })
      if (place.live) place.viewer = viewer
      else viewer?.close()
    }
  } catch (error) {
    place.viewer?.wrong(error)
  } finally {
    place.busy = false
  }
}

/**
 * @param {HostNode} node
 * @param {string} id
 * @param {Host} host
 */
async function open(node, id, host) {
  const place = places.get(node) ?? made(node)
  if (place.id === id && place.viewer && !place.live) return
  place.live = null
  if (place.id && place.id !== id) place.earlier = [place.id, ...place.earlier].slice(0, MOST_EARLIER)
  place.id = id
  place.viewer?.close()
  place.viewer = null
  const before = place.element.dataset.fields
  const viewer = await mountViewer(place.element, sourceOf(id, host), {
    fields: before ? { ...JSON.parse(before), ...fieldsOfNode(node) } : fieldsOfNode(node),
    reads: node.comfyClass === READS,
    changed: (fields) => write(node, place, fields, host),
    ...pinning(node, host),
    others: () => othersOf(node, place, host)
  })
  if (place.id !== id) return viewer?.close()
  place.viewer = viewer
}

/**
 * A click that pins a place, where a node records what comes of it.
 * @param {HostNode} node
 * @param {Host} host
 * @returns {Pick<import('./panel.js').Options, 'pin'>}
 */
function pinning(node, host) {
  const pins = pinsOf(node, host)
  return pins ? { pin: ({ x, y, frame }) => pins.add({ x, y, frame, percent: [false, false] }) } : {}
}

/**
 * @param {HostNode} node
 * @returns {Place}
 */
function made(node) {
  const element = document.createElement('div')
  element.className = 'matrix-viewer'
  // Nodes 2.0 divides a node's height among what it shows, and asks no widget for the least that it needs.
  Object.assign(element.style, { width: '100%', height: '100%', minHeight: `${HEIGHT - 20}px` })
  viewerRoot(element).show(goneMessage('opening the capture ...'))
  // The canvas around it would take drags, wheels and keys for its own.
  for (const event of ['pointerdown', 'dblclick', 'contextmenu', 'keydown', 'keyup']) {
    element.addEventListener(event, (heard) => heard.stopPropagation())
  }
  element.addEventListener('wheel', (event) => event.ctrlKey || event.stopPropagation(), { passive: true })
  const widget = node.addDOMWidget(KEY, KEY, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => (node.size[0] < NARROW ? NARROW_HEIGHT : HEIGHT)
  })
  widget.serialize = false
  /** @type {Place} */
  const place = { element, id: '', earlier: [], viewer: null, writing: false, live: null, busy: false }
  places.set(node, place)
  listen(node, place)
  const [width, height] = node.size
  const needed = node.computeSize()
  node.setSize([Math.max(width, WIDTH, needed[0]), Math.max(height, needed[1])])
  return place
}

/**
 * What is typed into the node's fields is looked at, too.
 * @param {HostNode} node
 * @param {Place} place
 */
function listen(node, place) {
  for (const widget of node.widgets ?? []) {
    const { callback } = widget
    widget.callback = function (/** @type {any} */ ...given) {
      const result = callback?.apply(this, /** @type {any} */ (given))
      if (!place.writing) place.viewer?.take(fieldsOfNode(node))
      return result
    }
  }
}

/**
 * @param {string} id
 * @param {Host} host
 * @param {number} [version] of a run that goes on: answers of earlier ones are kept by the browser
 */
function sourceOf(id, host, version) {
  return askingSource(async (what, query) => {
    const asked = version === undefined ? query : { ...query, v: `${version}` }
    const reply = await host.fetch(`/matrix/viewer/${id}/${what}?${new URLSearchParams(asked)}`)
    if (!reply.ok) throw new Error(errorOf(await reply.text()))
    return { data: await reply.arrayBuffer(), type: reply.headers.get('Content-Type') ?? '' }
  }, true)
}

/**
 * Captures of this graph to compare with: what this node showed before, and what others show.
 * @param {HostNode} node
 * @param {Place} place
 * @param {Host} host
 */
function othersOf(node, place, host) {
  const runs = place.earlier.map((id, i) => ({ id, label: i ? `${i + 1} runs before` : 'the run before' }))
  const nodes = host
    .nodes()
    .filter((other) => other !== node && places.get(other)?.id && places.get(other)?.id !== place.id)
    .map((other) => ({ id: places.get(other)?.id ?? '', label: `${other.title} (${other.id})` }))
  return [...runs, ...nodes].map(({ id, label }) => ({ label, open: () => Exhibit.open(sourceOf(id, host)) }))
}

/**
 * @param {HostNode} node
 * @param {string} name
 */
function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name)
}

/**
 * @param {string} field
 * @param {unknown} value
 */
function keyOf(field, value) {
  return Object.keys(WORDS[field]).find((key) => WORDS[field][key] === value)
}

/**
 * What the node's fields ask for; a node without them asks for everything.
 * @param {HostNode} node
 * @returns {Fields}
 */
export function fieldsOfNode(node) {
  /** @type {(name: string) => any} */
  const value = (name) => widgetOf(node, name)?.value
  if (!widgetOf(node, 'colour_scale')) return {}
  return {
    kind: keyOf('kind', value('kind')),
    names: String(value('names') ?? 'all'),
    layers: String(value('layers') ?? 'all'),
    steps: String(value('steps') ?? 'all'),
    stream: Number(value('stream') ?? 0),
    smooth: keyOf('heat', value('heat')) !== 'false',
    scale: keyOf('colour_scale', value('colour_scale')) === 'frame' ? 'frame' : 'clip',
    colours: value('colours'),
    strength: Number(value('strength') ?? 0.85),
    head: Number(value('head') ?? -1)
  }
}

/**
 * Writes a choice into the node's fields, as one change that can be undone.
 * @param {HostNode} node
 * @param {Place} place
 * @param {Fields} fields
 * @param {Host} host
 */
function write(node, place, fields, host) {
  place.element.dataset.fields = JSON.stringify(fields)
  if (!widgetOf(node, 'colour_scale')) return
  const values = {
    kind: WORDS.kind[fields.kind ?? ''],
    names: fields.names,
    layers: fields.layers,
    steps: fields.steps,
    stream: fields.stream,
    heat: WORDS.heat[`${fields.smooth}`],
    colour_scale: WORDS.colour_scale[fields.scale ?? ''],
    colours: fields.colours,
    strength: fields.strength,
    head: fields.head
  }
  host.before()
  place.writing = true
  for (const [name, value] of Object.entries(values)) {
    const widget = widgetOf(node, name)
    if (!widget || value === undefined || widget.value === value) continue
    widget.value = value
    widget.callback?.(value)
  }
  place.writing = false
  host.after()
  node.setDirtyCanvas(true, true) // a field on the canvas shows its old value until something is drawn
}
