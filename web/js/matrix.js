/**
 * The pack's extension of the host's page: which nodes are ours, and when they have something to show.
 *
 * Only public hooks are used, so that the classic canvas and Nodes 2.0 behave alike. Without this file every node works
 * as before; it shows less.
 */
import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'
import { editorExtension } from './editor/extension.js'
import { watchMissed } from './missed.js'
import { show } from './panel.js'
import { PROPERTY, reportOfOutput, reportOfProperty } from './report.js'
import { viewKept, viewLive, viewOutput } from './viewer/node.js'

/** @typedef {import('../../tests/front/host').HostNode} HostNode */

const CATEGORY = /^MATRIX(\/|$)/

/**
 * Nodes of this pack, on a page that can hold elements of ours: an older one shows the nodes alone.
 * @param {HostNode} node
 */
function isOurs(node) {
  return typeof node.addDOMWidget === 'function' && CATEGORY.test(node.constructor.nodeData?.category ?? '')
}

/** The whole workflow; older pages call it otherwise. */
const workflow = () => app.rootGraph ?? app.graph

/** What the viewer uses of the page. */
const host = {
  fetch: (/** @type {string} */ path) => api.fetchApi(path),
  nodes: () => /** @type {HostNode[]} */ (/** @type {unknown} */ (workflow().nodes)),
  before: () => app.canvas.emitBeforeChange(),
  after: () => app.canvas.emitAfterChange()
}

/** @param {string} path */
const served = (path) => api.apiURL(path)

/**
 * What a node sent goes into its panel and into its properties, which are saved with the workflow.
 * @param {HostNode} node
 * @param {unknown} output
 */
function told(node, output) {
  viewOutput(node, output, host)
  const report = reportOfOutput(output)
  if (!report) return
  const change = JSON.stringify(report) !== JSON.stringify(node.properties[PROPERTY])
  if (change) {
    // The host keeps a draft of the workflow at each change that it is told of: a report outlives a reload at once.
    app.canvas.emitBeforeChange()
    node.properties[PROPERTY] = /** @type {any} */ (report)
  }
  show(node, report, served)
  if (change) app.canvas.emitAfterChange()
}

/**
 * The report that came with a workflow, shown again.
 * @param {HostNode} node
 */
function refill(node) {
  viewKept(node, host)
  const report = reportOfProperty(node.properties?.[PROPERTY])
  if (report) show(node, report, served)
}

/** @param {HostNode} node */
function attach(node) {
  const { onExecuted, onConfigure } = node
  node.onExecuted = (output) => {
    onExecuted?.call(node, output)
    told(node, output)
  }
  node.onConfigure = (saved) => {
    onConfigure?.call(node, saved)
    refill(node)
  }
}

/**
 * Outputs that came by another way than the messages of a run, by node id.
 * @param {Record<string, unknown>} outputs
 */
function toldLater(outputs) {
  for (const [id, output] of Object.entries(outputs)) {
    const node = /** @type {HostNode | null} */ (/** @type {unknown} */ (workflow().getNodeById(id)))
    if (node && isOurs(node)) told(node, output)
  }
}

app.registerExtension({
  name: 'matrix.reports',
  nodeCreated(node) {
    if (isOurs(node)) attach(node)
  },
  onNodeOutputsUpdated: toldLater
})

watchMissed(
  {
    on: (name, listen) => api.addEventListener(name, listen),
    fetch: host.fetch,
    workflow: () => workflow()?.id
  },
  toldLater
)

/** What a running node has recorded so far. @param {{detail: any}} event */
function heardLive({ detail }) {
  const { node, id, version } = detail ?? {}
  const running = /** @type {HostNode | null} */ (/** @type {unknown} */ (workflow().getNodeById(node)))
  if (running) viewLive(running, { id, version }, host)
}

api.addEventListener('matrix.viewer', heardLive)
app.registerExtension(editorExtension(app, served))
