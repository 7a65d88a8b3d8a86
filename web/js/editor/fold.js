/** An editor that is folded into one button until somebody wants it, or its node has a text. */
import { dress } from './style.js'

/** Height of the button with its margins, in pixels. */
export const FOLDED = 46

export class Fold {
  /**
   * @param {import('./panel.js').Panel} panel
   * @param {string} title of the button
   * @param {() => void} opened told after it was unfolded
   */
  constructor(panel, title, opened) {
    dress()
    this.panel = panel
    this.opened = opened
    this.closed = true
    this.element = document.createElement('div') // what the host holds
    this.element.style.cssText = 'width:100%;height:100%;min-height:26px'
    const button = document.createElement('button')
    button.type = 'button'
    button.className = 'matrix-editor-folded'
    button.textContent = `${title} \u25be`
    button.addEventListener('click', () => this.open())
    button.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.element.append(button)
  }

  open() {
    if (!this.closed) return
    this.closed = false
    this.element.replaceChildren(this.panel.element)
    this.opened()
    this.panel.paint()
  }
}
