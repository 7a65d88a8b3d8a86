/**
 * Elements, made of texts and nothing that could be read as HTML.
 */

/**
 * @typedef {{class?: string, text?: string, title?: string, type?: string, label?: string, role?: string,
 *   on?: Record<string, (event: any) => void>}} Told
 */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Told} [told]
 * @param {(Node | null)[]} [children]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, told = {}, children = []) {
  const element = document.createElement(tag)
  if (told.class) element.className = told.class
  if (told.text !== undefined) element.textContent = told.text
  if (told.title) element.title = told.title
  if (told.type) element.setAttribute('type', told.type)
  if (told.label) element.setAttribute('aria-label', told.label)
  if (told.role) element.setAttribute('role', told.role)
  for (const [event, heard] of Object.entries(told.on ?? {})) element.addEventListener(event, heard)
  element.append(...children.filter((child) => child !== null))
  return element
}

/**
 * A few choices of which one holds.
 * @param {string} label
 * @param {{value: string, text: string, title?: string}[]} options
 * @param {(value: string) => void} chosen
 */
export function segments(label, options, chosen) {
  const buttons = options.map(({ value, text, title }) => {
    const button = make('button', { text, title, type: 'button', on: { click: () => chosen(value) } })
    button.dataset.value = value
    return button
  })
  const element = make('div', { class: 'segments', role: 'group', label }, buttons)
  /** @param {string} value */
  const show = (value) => {
    for (const button of buttons) button.setAttribute('aria-pressed', `${button.dataset.value === value}`)
  }
  return { element, show }
}

/**
 * @param {readonly number[]} rgb
 * @param {number} [alpha]
 * @returns {string}
 */
export function css([red, green, blue], alpha = 1) {
  return alpha === 1 ? `rgb(${red}, ${green}, ${blue})` : `rgba(${red}, ${green}, ${blue}, ${alpha})`
}

/**
 * Fits a canvas to its place on the page, with as many pixels as the screen has there.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width CSS pixels
 * @param {number} height
 * @returns {number} pixels of the canvas for one of CSS
 */
export function fitCanvas(canvas, width, height) {
  // The graph of a node editor is scaled as a whole: twice as many keep a picture sharp when it is enlarged.
  const scale = Math.max(2, Math.min(3, window.devicePixelRatio || 1))
  const [wide, tall] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))]
  if (canvas.width !== wide || canvas.height !== tall) {
    canvas.width = wide
    canvas.height = tall
  }
  return scale
}

/**
 * Hands a file to the person.
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
  const link = make('a')
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}
