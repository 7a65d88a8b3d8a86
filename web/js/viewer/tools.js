/**
 * The row of tools: how heat is drawn, which head and prompt, what to compare with, what to save.
 */
import { make, segments } from './parts.js'

/** @typedef {import('./panel.js').Viewer} Viewer */

/**
 * The tools for what is chosen now; they are made anew with another kind or prompt.
 * @param {Viewer} viewer
 * @returns {{parts: HTMLElement[], show: () => void}}
 */
export function toolRow(viewer) {
  const heat = segments(
    'Heat',
    [
      { value: 'smooth', text: 'Smooth', title: 'Soft heat (C)' },
      { value: 'cells', text: 'Tokens', title: 'One cell for each token: what was measured (C)' }
    ],
    (value) => viewer.set({ smooth: value === 'smooth' })
  )
  const scale = segments(
    'Colour scale',
    [
      { value: 'clip', text: 'One scale', title: 'Frames can be compared (S)' },
      { value: 'frame', text: 'Per frame', title: 'Faint frames show, too (S)' }
    ],
    (value) => viewer.set({ scale: /** @type {'clip' | 'frame'} */ (value) })
  )
  const strength = strengthSlider(viewer)
  const colours = menu('Colours', viewer.choice.colours, Object.keys(viewer.manifest.colormaps), (value) =>
    viewer.set({ colours: value })
  )
  const reads = button('Read', 'Masks of the words, and who was mistaken for whom, read off the maps (R)', () =>
    viewer.read(!viewer.reads)
  )
  const sinkless = button('No sinks', 'Leave places that everybody looks at out of scores, masks and findings', () =>
    viewer.leaveSinksOut(!viewer.exhibit.sinkless)
  )
  const parts = [
    heat.element,
    scale.element,
    make('label', { text: 'heat', title: 'How far heat covers the frames' }, [strength]),
    colours,
    viewer.held.heads.length ? headMenu(viewer) : null,
    viewer.manifest.streams.length > 1 ? streamMenu(viewer) : null,
    Object.keys(viewer.manifest.experts).length ? expertMenu(viewer) : null,
    viewer.options.others ? compareMenu(viewer, viewer.options.others) : null,
    reads,
    viewer.exhibit.source.page ? sinkless : null,
    make('span', { class: 'space' }),
    ...saveButtons(viewer),
    button('?', 'Keys', () => viewer.showHelp())
  ]
  return {
    parts: parts.filter((part) => part !== null),
    show() {
      heat.show(viewer.choice.smooth ? 'smooth' : 'cells')
      scale.show(viewer.choice.scale)
      strength.value = `${viewer.choice.strength}`
      colours.value = viewer.choice.colours
      reads.setAttribute('aria-pressed', `${viewer.reads}`)
      sinkless.setAttribute('aria-pressed', `${viewer.exhibit.sinkless}`)
    }
  }
}

/** @param {Viewer} viewer */
function saveButtons(viewer) {
  return [
    button('PNG', 'Save this picture', () => viewer.savePicture()),
    button('Video', 'Save a video (webm) of the clip as it looks now', () => viewer.saveVideo()),
    viewer.exhibit.source.page
      ? button('Page', 'Save the viewer as one HTML file that works without anything else', () => viewer.savePage())
      : null
  ]
}

/**
 * @param {string} text
 * @param {string} title
 * @param {() => void} click
 */
function button(text, title, click) {
  return make('button', { type: 'button', text, title, on: { click } })
}

/** @param {Viewer} viewer */
function strengthSlider(viewer) {
  const slider = make('input', { type: 'range', label: 'Strength of the heat' })
  Object.assign(slider, { min: '0', max: '1', step: '0.05' })
  slider.addEventListener('input', () => viewer.set({ strength: +slider.value }))
  return slider
}

/**
 * @param {string} label
 * @param {string} value
 * @param {string[]} values
 * @param {(value: string) => void} chosen
 * @param {string[]} [texts]
 */
function menu(label, value, values, chosen, texts = values) {
  const options = values.map((each, i) => option(texts[i], each))
  const select = make('select', { label, title: label }, options)
  select.value = value
  select.addEventListener('change', () => chosen(select.value))
  return select
}

/**
 * @param {string} text
 * @param {string} value
 */
function option(text, value) {
  return Object.assign(make('option', { text }), { value })
}

/** @param {Viewer} viewer */
function headMenu(viewer) {
  const values = ['', ...viewer.held.heads.map(String)]
  const texts = [`mean of ${viewer.held.heads.length} heads`, ...viewer.held.heads.map((head) => `head ${head}`)]
  const chosen = viewer.choice.head === null ? '' : `${viewer.choice.head}`
  return menu('Head', chosen, values, (value) => viewer.set({ head: value ? +value : null }), texts)
}

/** @param {Viewer} viewer */
function streamMenu(viewer) {
  const values = viewer.manifest.streams.map((_, i) => `${i}`)
  const texts = values.map((value) => `prompt ${value}`)
  const chosen = `${viewer.choice.stream}`
  return menu('Prompt and sample', chosen, values, (value) => viewer.setStream(+value), texts)
}

/** @param {Viewer} viewer */
function expertMenu(viewer) {
  const { experts } = viewer.manifest
  const names = Object.keys(experts)
  /** @param {string} value */
  const chosen = (value) => viewer.set({ steps: value ? experts[value] : viewer.exhibit.steps })
  return menu('Whose steps', '', ['', ...names], chosen, ['every model', ...names])
}

/**
 * Captures to compare with; the list is asked for anew when it is opened.
 * @param {Viewer} viewer
 * @param {() => import('./panel.js').Other[]} others
 */
function compareMenu(viewer, others) {
  const select = make('select', { label: 'Compare', title: 'Compare with another capture' })
  /** @type {import('./panel.js').Other[]} */
  let found = []
  const fill = () => {
    const kept = select.value
    found = others()
    const made = found.flatMap(({ label }, i) => [
      option(`beside ${label}`, `side ${i}`),
      option(`minus ${label}`, `difference ${i}`)
    ])
    select.replaceChildren(option('compare', ''), ...made)
    select.value = kept
    if (select.selectedIndex < 0) select.value = ''
  }
  fill()
  select.addEventListener('pointerdown', fill)
  select.addEventListener('focus', fill)
  select.addEventListener('change', () => {
    const [how, place] = select.value.split(' ')
    const compare = how === 'side' || how === 'difference' ? how : 'off'
    viewer.compare(compare, found[+place] ?? null)
  })
  return select
}
