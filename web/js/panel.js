/**
 * The read-only panel under a node: its warnings, its text, its files.
 *
 * A DOM widget, so that the classic canvas and Nodes 2.0 show the same element. Only text nodes and fixed attributes are
 * written: whatever stands in a name, it stays text.
 */
import { address, lineCount } from './report.js'

const NAME = 'matrix_report'
const LINE = 15
const CHARACTER = 6.7 // pixels of a character at 11 px, margins apart
const LOWEST = 44
const HIGHEST = 190

/** @typedef {import('./report.js').Report} Report */
/** @typedef {import('../../tests/front/host').HostNode} HostNode */

/**
 * @typedef {object} Panel
 * @property {HTMLElement} element
 * @property {Report} report what it shows
 * @property {(path: string) => string} served the whole address of a path of the host
 */

/** @type {WeakMap<HostNode, Panel>} */
const panels = new WeakMap()

/**
 * Shows `report` under `node`; the panel is made when a node has something to say for the first time.
 * @param {HostNode} node
 * @param {Report} report
 * @param {(path: string) => string} served the whole address of a path of the host
 */
export function show(node, report, served) {
  const panel = panels.get(node) ?? made(node, report, served)
  panel.report = report
  panel.element.replaceChildren(...parts(report, served))
  const [width, height] = node.size
  const needed = node.computeSize()
  if (needed[1] > height || needed[0] > width) {
    node.setSize([Math.max(width, needed[0]), Math.max(height, needed[1])])
  }
  node.setDirtyCanvas(true, true) // the classic canvas places the panel as it draws
}

/**
 * @param {HostNode} node
 * @param {Report} report
 * @param {(path: string) => string} served
 * @returns {Panel}
 */
function made(node, report, served) {
  const element = document.createElement('div')
  element.className = 'matrix-report'
  element.setAttribute('role', 'log')
  element.setAttribute('aria-label', 'Report')
  element.tabIndex = 0
  Object.assign(element.style, {
    boxSizing: 'border-box',
    width: '100%',
    height: '100%',
    overflow: 'auto',
    padding: '6px 8px',
    borderRadius: '4px',
    background: 'var(--comfy-input-bg)',
    color: 'var(--input-text)',
    font: `11px/${LINE}px ui-monospace, monospace`,
    textAlign: 'left',
    userSelect: 'text',
    cursor: 'text'
  })
  // Selecting text must not drag the node, and the wheel scrolls the text as long as there is some to scroll.
  element.addEventListener('pointerdown', (event) => event.button === 0 && event.stopPropagation())
  element.addEventListener('wheel', (event) => scrolls(element) && event.stopPropagation(), { passive: true })
  const panel = { element, report, served }
  panels.set(node, panel)
  const height = () => heightOf(panel.report, node.size[0])
  const widget = node.addDOMWidget(NAME, 'matrix_report', element, {
    serialize: false, // not an input of the node: nothing of it goes into a prompt
    hideOnZoom: false,
    getMinHeight: height,
    getMaxHeight: () => Math.max(height(), node.size[1])
  })
  widget.serialize = false // nor among the values of a saved node, whose places count
  return panel
}

/**
 * @param {Report} report
 * @param {number} width of the node, in pixels of the graph
 */
function heightOf(report, width) {
  const columns = Math.max(16, Math.floor((width - 46) / CHARACTER))
  return Math.min(HIGHEST, Math.max(LOWEST, lineCount(report, columns) * LINE + 16))
}

/** @param {HTMLElement} element */
function scrolls(element) {
  return element.scrollHeight > element.clientHeight
}

/**
 * @param {Report} report
 * @param {(path: string) => string} served
 * @returns {HTMLElement[]}
 */
function parts(report, served) {
  const warnings = report.warnings.map((text) => {
    const line = block(`\u26a0 ${text}`)
    line.className = 'matrix-warning'
    line.style.color = 'var(--warning-background, #e0a030)'
    return line
  })
  const files = report.files.map((file) => {
    const line = block('')
    const link = document.createElement('a')
    link.href = served(address(file))
    link.download = file.filename
    link.textContent = `\u2b07 ${file.filename}`
    link.style.color = 'inherit'
    line.append(link)
    return line
  })
  return [...warnings, ...(report.text ? [block(report.text)] : []), ...files]
}

/** @param {string} text */
function block(text) {
  const element = document.createElement('div')
  element.textContent = text
  Object.assign(element.style, { whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' })
  return element
}
