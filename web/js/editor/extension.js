/** Puts the editor on the nodes whose text it edits. */

import { FOLDED, Fold } from './fold.js'
import { BOXES, MASKS, PROMPTS } from './grammar.js'
import { asGrid, boundNames, feeding, gridOf, retimeWords, timedWords, widgetOf } from './graph.js'
import { Panel } from './panel.js'
import { asSheet, Pictures, SHEET } from './picture.js'
import { pinsOf } from './pins.js'

/** @typedef {import('../../../tests/front/host').HostNode} HostNode */
/** @typedef {import('../../../tests/front/host').App} App */

const NAME = 'matrix_editor'
const GRID = 'matrix_grid'
const WIDE = 400 // pixels of a new node, and how much higher than it has to be
const MORE = 150
const EVERY = 250 // milliseconds between two looks at what is outside

/**
 * text: the widget that is edited; picture: the input with the frames; instead: an input that takes the text's place, and
 * what is said then; length: the widget with the number of frames; folded: what opens the editor, on nodes that do as well
 * without.
 * @typedef {{text: string, kind: import('./grammar.js').Kind, picture: string, instead?: [string, string], length?: string,
 *   folded?: string}} Edited
 * @type {Record<string, Edited>}
 */
const EDITED = {
  MatrixBoxTracks: {
    ...{ text: 'boxes', kind: BOXES, picture: 'images' },
    instead: ['bboxes', 'Boxes come over a link: these are not used.']
  },
  MatrixSAM2Tracks: { text: 'prompts', kind: PROMPTS, picture: 'frames' },
  MatrixMaskTracks: { text: 'painted', kind: MASKS, picture: 'images', folded: 'Paint masks' },
  MatrixCutAndDrag: {
    ...{ text: 'boxes', kind: BOXES, picture: 'image', length: 'length', folded: 'Draw boxes here' },
    instead: ['tracks', 'Tracks come over a link: these boxes are not used.']
  }
}

/**
 * @param {App} app
 * @param {(path: string) => string} served the whole address of a path of the host
 * @returns {import('../../../tests/front/host').Extension}
 */
export function editorExtension(app, served) {
  return {
    name: 'matrix.editor',
    nodeCreated(node) {
      if (typeof node.addDOMWidget !== 'function') return
      keepWhatItTells(app, node)
      const edited = EDITED[node.comfyClass ?? '']
      if (edited && widgetOf(node, edited.text)) attach(app, node, edited, served)
    }
  }
}

/**
 * Frames and the token grid that a node returned are kept with it.
 * @param {App} app
 * @param {HostNode} node
 */
function keepWhatItTells(app, node) {
  const { onExecuted } = node
  node.onExecuted = (output) => {
    onExecuted?.call(node, output)
    const told = /** @type {Record<string, unknown[]>} */ (output ?? {})
    const grid = asGrid(told[GRID]?.[0])
    const sheet = told[SHEET]?.[0]
    if (!grid && !sheet) return
    if (grid) node.properties[GRID] = /** @type {any} */ (grid)
    if (sheet) node.properties[SHEET] = /** @type {any} */ (sheet)
    app.canvas.setDirty(true, true)
  }
}

/**
 * @param {App} app
 * @param {HostNode} node
 * @param {Edited} edited
 * @param {(path: string) => string} served
 */
function attach(app, node, edited, served) {
  const pages = new URL('../..', import.meta.url).href.replace(/\/$/, '')
  const text = /** @type {{value: unknown, hidden?: boolean, callback?: (value: unknown) => void}} */ (
    widgetOf(node, edited.text)
  )
  const pictures = new Pictures(node, edited.picture, served, pages, () => panel.pictured())
  const number = (/** @type {string} */ name, /** @type {number} */ other) =>
    Number(widgetOf(node, name)?.value) || other
  const panel = new Panel(
    {
      read: () => String(text.value ?? ''),
      write: (value) => {
        app.canvas.emitBeforeChange() // the host's own undo, and its draft of the workflow
        text.value = value
        text.callback?.(value)
        app.canvas.emitAfterChange()
      },
      clip: () => {
        const size = pictures.size()
        return {
          width: size?.width ?? number('width', 720),
          height: size?.height ?? number('height', 480),
          frames: Math.max(1, (edited.length ? null : size?.frames) ?? number(edited.length ?? 'frames', 49)),
          fps: number('fps', 8),
          hold: widgetOf(node, 'hold')?.value !== false
        }
      },
      names: () => boundNames(node),
      times: () => timedWords(node),
      retime: (words, time) => {
        app.canvas.emitBeforeChange()
        retimeWords(node, words, time)
        app.canvas.emitAfterChange()
      },
      connected: () => edited.instead !== undefined && feeding(node, edited.instead[0]) !== null,
      instead: edited.instead?.[1]
    },
    edited.kind,
    {
      picture: (...to) => pictures.draw(...to),
      seek: (seconds) => pictures.seek(seconds),
      grid: () => gridOf(node),
      pins: () =>
        pinsOf(node, { before: () => app.canvas.emitBeforeChange(), after: () => app.canvas.emitAfterChange() })
    }
  )
  const unfolded = () => {
    text.hidden = false
    enlarge(node)
  }
  const fold = edited.folded ? new Fold(panel, edited.folded, unfolded) : null
  if (fold) text.hidden = true // an empty field says nothing beside the button
  const widget = node.addDOMWidget(NAME, 'matrix_editor', fold?.element ?? panel.element, {
    serialize: false, // the text is what is kept
    hideOnZoom: false,
    getMinHeight: () => (fold?.closed ? FOLDED : panel.heightFor(node.size[0] - 30))
  })
  widget.serialize = false
  roomy(node)
  if (!fold) enlarge(node) // a saved node has its own size
  look(node, panel, pictures, () => fold?.closed && String(text.value ?? '').trim() && fold.open())
}

/** @param {HostNode} node */
function enlarge(node) {
  node.setSize([Math.max(WIDE, node.size[0]), Math.max(node.size[1], node.computeSize()[1] + MORE)])
}

/**
 * A workflow from before there was an editor has a smaller node than it takes.
 * @param {HostNode} node
 */
function roomy(node) {
  const { onConfigure } = node
  const fit = () => {
    const [width, height] = node.size
    const least = node.computeSize()
    if (height < least[1] || width < least[0]) node.setSize([Math.max(width, least[0]), Math.max(height, least[1])])
  }
  node.onConfigure = (saved) => {
    onConfigure?.call(node, saved)
    fit()
  }
}

/**
 * Looks at the text, the links and the pictures as long as the node lives: any of them may change without a word.
 * @param {HostNode} node
 * @param {Panel} panel
 * @param {Pictures} pictures
 * @param {() => void} also
 */
function look(node, panel, pictures, also) {
  const timer = setInterval(() => {
    if (!node.graph) return
    stampSheet(node, pictures)
    pictures.refresh()
    panel.refresh()
    also()
  }, EVERY)
  const { onRemoved } = node
  node.onRemoved = () => {
    onRemoved?.call(node)
    clearInterval(timer)
    panel.remove()
  }
}

/**
 * Frames that have just come belong to what is linked in now.
 * @param {HostNode} node
 * @param {Pictures} pictures
 */
function stampSheet(node, pictures) {
  const kept = /** @type {Record<string, unknown> | undefined} */ (node.properties?.[SHEET])
  if (!kept || typeof kept.source === 'string') return
  const made = { ...kept, source: pictures.source()?.key ?? '' }
  if (asSheet(made)) node.properties[SHEET] = /** @type {any} */ (made)
  else delete node.properties[SHEET]
}
