/**
 * The attention viewer's three mounts: anywhere with a source, in a page that carries its data, in a notebook.
 */
import { Exhibit } from './exhibit.js'
import { Viewer } from './panel.js'
import { make } from './parts.js'
import { modelSource, pageSource } from './source.js'
import { STYLE } from './style.js'

/** @typedef {import('./source.js').Source} Source */
/** @typedef {import('./panel.js').Options} Options */

/**
 * A place for a viewer: an element with styles of its own, in which nothing of the page around it counts.
 * @param {HTMLElement} element
 * @returns {{show: (inside: HTMLElement) => void}}
 */
export function viewerRoot(element) {
  const root = element.shadowRoot ?? element.attachShadow({ mode: 'open' })
  const style = document.createElement('style')
  style.textContent = STYLE
  return { show: (inside) => root.replaceChildren(style, inside) }
}

/**
 * What is shown where there is no capture to look at.
 * @param {string} text
 * @returns {HTMLElement}
 */
export function goneMessage(text) {
  const line = make('div', { class: 'gone', role: 'status' }, [make('div', { text })])
  return make('div', { class: 'viewer' }, [line])
}

/**
 * Opens a source and shows it. What goes wrong is said in its place.
 * @param {HTMLElement} element
 * @param {Source} source
 * @param {Options} [options]
 * @returns {Promise<Viewer | null>}
 */
export async function mountViewer(element, source, options = {}) {
  const root = viewerRoot(element)
  try {
    const viewer = new Viewer(await Exhibit.open(source), options)
    root.show(viewer.element)
    viewer.resized()
    return viewer
  } catch (error) {
    root.show(goneMessage(error instanceof Error ? error.message : String(error)))
    return null
  }
}

/**
 * The first of several sources, with the others to compare with.
 * @param {HTMLElement} element
 * @param {Source[]} sources
 * @param {string[]} labels
 * @param {Options} options
 */
export function mountSeveral(element, sources, labels, options) {
  const others = sources.slice(1).map((source, i) => ({
    label: labels[i + 1] || `capture ${i + 2}`,
    open: () => Exhibit.open(source)
  }))
  return mountViewer(element, sources[0], { ...options, ...(others.length ? { others: () => others } : {}) })
}

/**
 * The viewer of a page that carries its data: see `viewer/page.py`.
 * @param {HTMLElement} element
 * @param {{exhibits: import('./source.js').Embedded[]}} data
 */
export function mountPage(element, data) {
  const labels = data.exhibits.map(({ manifest }) => manifest.label)
  return mountSeveral(element, data.exhibits.map(pageSource), labels, { large: true })
}

/**
 * The viewer of a notebook's cell: see `viewer/widget.py`.
 * @param {HTMLElement} element
 * @param {import('./source.js').WidgetModel} model
 * @returns {() => void} lets go of it
 */
export function mountWidget(element, model) {
  const place = make('div')
  place.style.height = `${model.get('height')}px`
  element.append(place)
  const labels = /** @type {string[]} */ (model.get('labels'))
  const sources = labels.map((_, i) => modelSource(model, i))
  const mounted = mountSeveral(place, sources, labels, {
    fields: model.get('choice'),
    changed: (fields) => {
      model.set('choice', fields)
      model.save_changes()
    }
  })
  return () => {
    mounted.then((viewer) => viewer?.close())
    place.remove()
  }
}
