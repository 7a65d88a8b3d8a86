import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BOXES, PROMPTS, parse, print } from '../../../web/js/editor/grammar.js'
import { cursorOf, handles, hitAt, inClip, onStage, viewOf } from '../../../web/js/editor/hits.js'
import { importTracks } from '../../../web/js/editor/imports.js'
import { allowed, boxAt, neighbours, present, problemOf, resized, speedAt } from '../../../web/js/editor/motion.js'
import { keyValue, sceneOf, withoutShares } from '../../../web/js/editor/scene.js'
import { cropOf } from '../../../web/js/editor/stage.js'
import { printBox } from '../../../web/js/editor/values.js'

const CLIP = { width: 200, height: 100, frames: 17, fps: 8, hold: true }
/** @typedef {import('../../../web/js/editor/motion.js').BoxKey} BoxKey */
/** @type {BoxKey[]} */
const KEYS = [
  { frame: 4, box: [0, 0, 10, 10] },
  { frame: 8, box: [40, 0, 50, 30] },
  { frame: 10, box: null },
  { frame: 14, box: [40, 0, 50, 30] }
]

test('a box between its keys, held at the ends, absent from off on', () => {
  assert.deepEqual(boxAt(KEYS, 6, true), [20, 0, 30, 20])
  assert.deepEqual(boxAt(KEYS, 0, true), [0, 0, 10, 10])
  assert.equal(boxAt(KEYS, 0, false), null)
  assert.deepEqual(boxAt(KEYS, 9, true), [40, 0, 50, 30])
  assert.equal(boxAt(KEYS, 12, true), null)
  assert.deepEqual(present(KEYS, 17, true), [
    [0, 9],
    [14, 16]
  ])
  assert.deepEqual(present(KEYS, 17, false), [
    [4, 9],
    [14, 14]
  ])
  assert.equal(speedAt(KEYS, 4, true), Math.hypot(10, 2.5))
  assert.equal(speedAt(KEYS, 10, true), null)
  assert.deepEqual(
    neighbours(KEYS, 11).map((key) => key?.frame),
    [8, 14]
  )
})

test('boxes are put right', () => {
  assert.deepEqual(resized([0, 0, 10, 10], 'e', -5, 99), [-5, 0, 0, 10])
  assert.deepEqual(resized([0, 0, 10, 10], 'nw', 4, 5), [4, 5, 10, 10])
  assert.deepEqual(allowed([500, -90, 520, -60], CLIP), [198, -28, 218, 2])
  assert.deepEqual(allowed([5, 5, 5, 5], CLIP), [5, 5, 7, 7])
  assert.match(problemOf([{ frame: 20, box: [0, 0, 5, 5] }], 17, CLIP), /frame 20/)
  assert.match(problemOf([{ frame: 2, box: [9, 0, 5, 5] }], 17, CLIP), /empty/)
  assert.match(problemOf([{ frame: 2, box: [300, 0, 305, 5] }], 17, CLIP), /outside/)
  assert.match(problemOf([{ frame: 2, box: null }], 17, CLIP), /no box/)
  assert.equal(problemOf(KEYS, 17, CLIP), '')
})

test('what lies under the pointer', () => {
  const view = viewOf(CLIP, 428, 228)
  assert.deepEqual(view, { scale: 2, left: 14, top: 14 })
  assert.deepEqual(inClip(view, { x: 34, y: 34 }), [10, 10])
  const box = onStage(view, [10, 10, 60, 60])
  const path = [
    { frame: 0, x: box[0] + 50, y: box[1] + 50, key: true },
    { frame: 1, x: box[0] + 90, y: box[1] + 50, key: true },
    { frame: 2, x: 300, y: 100, key: false }
  ]
  const shown = [
    { name: 'a', selected: true, box, dots: [], path },
    { name: 'b', selected: false, box: onStage(view, [0, 0, 150, 90]), dots: [{ x: 350, y: 200 }], path: [] }
  ]
  const at = (/** @type {number} */ x, /** @type {number} */ y) => hitAt(shown, { x, y })
  assert.deepEqual(at(box[0] + 3, box[1] - 4), { name: 'a', part: 'nw' })
  assert.deepEqual(at(box[0] + 50, box[1] + 50), { name: 'a', part: 'box' })
  assert.deepEqual(at(box[0] + 88, box[1] + 50), { name: 'a', part: 'path', frame: 1 })
  assert.deepEqual(at(302, 100), { name: 'a', part: 'path', frame: 2 })
  assert.deepEqual(at(250, 150), { name: 'b', part: 'box' })
  assert.deepEqual(at(352, 198), { name: 'b', part: 'dot', index: 0 })
  assert.equal(at(420, 220), null)
  assert.equal(handles([0, 0, 20, 100]).length, 6)
  assert.deepEqual(
    ['nw', 'ne', 'e', 's', 'box', 'path'].map((part) => cursorOf({ name: 'a', part })),
    ['nwse-resize', 'nesw-resize', 'ew-resize', 'ns-resize', 'move', 'grab']
  )
})

test('shares of the frame are read as the library reads them, and leave as percent', () => {
  const doc = parse('a: 0: .25 0 1 .5; 4: off\nb: 0 0 1 1', BOXES)
  const scene = sceneOf(doc, CLIP)
  assert.deepEqual(scene.tracks[0].keys[0].box, [50, 0, 200, 50])
  assert.equal(print(withoutShares(doc, CLIP)), 'a: 0: 25% 0% 100% 50%; 4: off\nb: 0% 0% 100% 100%')
  assert.equal(sceneOf(parse('b: 0 0 1 1', BOXES), CLIP).shares, false)
})

test('new boxes are in the units of the text', () => {
  const key = { box: /** @type {any} */ ([10, 10, 50, 50]), dots: [] }
  const value = (/** @type {string} */ text, name = 'a') =>
    printBox(/** @type {any} */ (keyValue(parse(text, BOXES), name, key, CLIP)))
  assert.equal(value('a: 1 2 3 4\nb: 1% 2% 3% 4%'), '10 10 50 50')
  assert.equal(value('a: 1 2 3 4\nb: 1% 2% 3% 4%', 'b'), '5% 10% 25% 50%')
  assert.equal(value('b: 1% 2% 3% 4%', 'new'), '5% 10% 25% 50%')
  assert.equal(value(''), '10 10 50 50')
})

test('the crop is the one of the host', () => {
  const grid = {
    token: /** @type {[number, number]} */ ([16, 16]),
    frame: /** @type {[number, number]} */ ([720, 480]),
    fit: 'center'
  }
  assert.deepEqual(cropOf({ width: 1280, height: 720 }, grid), [100, 0, 1180, 720])
  assert.deepEqual(cropOf({ width: 480, height: 640 }, grid), [0, 160, 480, 480])
  assert.deepEqual(cropOf({ width: 480, height: 640 }, { ...grid, fit: 'stretch' }), [0, 0, 480, 640])
  assert.deepEqual(cropOf({ width: 480, height: 640 }, { ...grid, fit: 'pad' }), [-240, 0, 720, 640])
})

test('tracks of other editors are pasted', () => {
  const take = (/** @type {unknown} */ given, kind = BOXES, bound = [{ name: 'cat' }]) =>
    importTracks(typeof given === 'string' ? given : JSON.stringify(given), kind, CLIP, bound)
  const corners = (/** @type {any} */ value) => value.map((/** @type {any} */ one) => one.value)
  const elements = [
    { type: 'obj', bbox: [100, 200, 300, 400], desc: 'a red boat' },
    { type: 'text', bbox: [0, 0, 500, 500], text: 'SALE', desc: '' }
  ]
  const [boat, sale] = take(elements)
  assert.deepEqual([boat.name, corners(boat.keys[0].value), sale.name], ['a red boat', [40, 10, 80, 30], 'SALE'])
  assert.deepEqual(corners(take([[{ x: 5, y: 9, width: 40, height: 30 }]])[0].keys[0].value), [5, 9, 45, 39])
  assert.deepEqual(corners(take([{ x: 0.1, y: 0.2, w: 0.5, h: 0.5, desc: '' }])[0].keys[0].value), [20, 20, 120, 70])
  const line = Array.from({ length: 50 }, (_, i) => ({ x: i * 4, y: 50 }))
  const bend = [...line.slice(0, 25), ...Array.from({ length: 24 }, (_, i) => ({ x: 97 + i, y: 52 + 2 * i }))]
  const [straight] = take(line)
  assert.deepEqual([straight.name, straight.keys.map(({ frame }) => frame)], ['cat', [0, 16]])
  assert.deepEqual(
    take([bend, line]).map(({ keys }) => keys.length),
    [3, 2]
  )
  assert.equal(take('bird: 4: 20 20 60 60; 9: off')[0].keys.length, 2)
  assert.equal(take([{ x: 3, y: 4 }], PROMPTS)[0].keys[0].frame, 0)
  for (const none of ['', 'words', '[]', '{}', '[1, 2]', '[[]]', 'null', '[{"x": "a", "y": 2}]'])
    assert.throws(() => take(none))
})
