/** The keyboard of the editor. */

/** @typedef {import('./editor.js').Editor} Editor */

const STEP = 10 // pixels with Shift

/**
 * @param {KeyboardEvent} event
 * @param {Editor} editor
 * @param {{play: () => void, leave: () => void, brush: () => void, pin: () => void}} panel
 * @returns {boolean} whether it was ours
 */
export function pressed(event, editor, panel) {
  const { key, shiftKey } = event
  if (event.altKey) return false
  if (event.ctrlKey || event.metaKey) return withControl(key.toLowerCase(), shiftKey, editor)
  const far = shiftKey ? STEP : 1
  /** @type {Record<string, () => void>} */
  const actions = {
    ArrowLeft: () => editor.nudge(-far, 0),
    ArrowRight: () => editor.nudge(far, 0),
    ArrowUp: () => editor.nudge(0, -far),
    ArrowDown: () => editor.nudge(0, far),
    Tab: () => editor.selectNext(shiftKey ? -1 : 1),
    ' ': panel.play,
    ',': () => editor.seek(editor.frame - 1),
    '.': () => editor.seek(editor.frame + 1),
    '[': () => editor.seekKey(-1),
    ']': () => editor.seekKey(1),
    Home: () => editor.seek(0),
    End: () => editor.seek(editor.clip.frames - 1),
    k: () => editor.pin(),
    o: () => editor.toggle(),
    b: () => panel.brush(),
    p: () => panel.pin(),
    '-': () => editor.resizeBrush(1 / 1.25),
    '+': () => editor.resizeBrush(1.25),
    '=': () => editor.resizeBrush(1.25),
    Delete: () => (shiftKey ? editor.discard() : editor.unpin()),
    Backspace: () => (shiftKey ? editor.discard() : editor.unpin()),
    Escape: panel.leave
  }
  const action = actions[key.length === 1 ? key.toLowerCase() : key]
  action?.()
  return action !== undefined
}

/**
 * @param {string} key
 * @param {boolean} shift
 * @param {Editor} editor
 */
function withControl(key, shift, editor) {
  if (key === 'z') {
    if (shift) editor.redo()
    else editor.undo()
  } else if (key === 'y') editor.redo()
  else if (key === 'a') editor.select(null)
  else return false
  return true
}
