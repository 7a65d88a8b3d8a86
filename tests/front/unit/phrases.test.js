import assert from 'node:assert/strict'
import { test } from 'node:test'
import { distinctColours, readable } from '../../../web/js/colours.js'
import { asGrid } from '../../../web/js/editor/graph.js'
import { draggedTime, namesIn, timesIn, withTime } from '../../../web/js/editor/phrases.js'
import { asSheet, fileOf } from '../../../web/js/editor/picture.js'

test('names are found as far as lines can be read', () => {
  const text = 'cat: a cat @0-1.5s\nvan: \ndog: a dog [object]\nsnow\nbites = verb(dog -> cat)\ncat: again\nx: y [role]'
  assert.deepEqual(namesIn(text), [
    { name: 'cat', role: 'object', time: [0, 1.5] },
    { name: 'dog', role: 'object', time: null }
  ])
  assert.deepEqual(namesIn(''), [])
  const timed = 'cat: a cat @0-1s\nbites = verb(cat) @1s-\nsnow @-0.5s\nrain\nwind @'
  assert.deepEqual(timesIn(timed), [
    { name: 'bites', time: [1, null], line: 2 },
    { name: 'snow', time: [0, 0.5], line: 3 }
  ])
})

test('a time is written anew at the end of its line, and nothing else changes', () => {
  const text = 'cat: a cat\r\n  bites = verb(cat) @1s-  \nsnow @-0.5s'
  assert.equal(withTime(text, 2, [0, 1.625]), 'cat: a cat\r\n  bites = verb(cat) @0-1.625s\nsnow @-0.5s')
  assert.equal(withTime(text, 3, [1 / 24, null]), 'cat: a cat\r\n  bites = verb(cat) @1s-  \nsnow @0.041667s-')
})

test('a time whose end is dragged past the other one keeps a frame', () => {
  for (const fps of [8, 24, 29.97, 30]) {
    for (let frame = 1; frame < 40; frame++) {
      for (const end of [0, 1]) {
        const [{ time }] = timesIn(withTime('snow @1s-', 1, end ? [frame / fps, null] : [0, frame / fps]))
        const made = draggedTime(time, end, end ? 0 : 59, { fps, frames: 60 })
        const [found] = timesIn(withTime('snow @1s-', 1, made))
        assert.equal(Math.round(((found.time[1] ?? 0) - found.time[0]) * fps), 1)
      }
    }
  }
  assert.deepEqual(draggedTime([1, 100], 0, 90, { fps: 8, frames: 17 }), [2, 100])
})

test('what a workflow of a stranger holds is taken by its kind or left', () => {
  assert.deepEqual(asGrid({ token: [16, 8], frame: [720, 480], fit: 'pad', more: 1 }), {
    token: [16, 8],
    frame: [720, 480],
    fit: 'pad'
  })
  for (const none of [
    null,
    3,
    {},
    { token: [0, 8], frame: [1, 1], fit: '' },
    { token: [1e9, 1], frame: [1, 1], fit: '' }
  ]) {
    assert.equal(asGrid(none), null)
  }
  const file = { filename: 'a.jpg', subfolder: '', type: 'temp' }
  const sheet = { file, columns: 2, count: 3, every: 1, frames: 3, size: [8, 8], source: '1 []' }
  assert.deepEqual(asSheet(sheet), sheet)
  for (const wrong of [
    { ...sheet, columns: 0 },
    { ...sheet, file: { ...file, type: 'input' } },
    { ...sheet, size: [8] },
    null,
    'x'
  ]) {
    assert.equal(asSheet(wrong), null)
  }
})

test('files as load nodes name them', () => {
  assert.deepEqual(fileOf('a/b/c.png [output]'), { filename: 'c.png', subfolder: 'a/b', type: 'output' })
  assert.deepEqual(fileOf('c [x].png'), { filename: 'c [x].png', subfolder: '', type: 'input' })
  assert.equal(fileOf(undefined), null)
})

test('colours are bright, differ, and begin with the five of the ID map', () => {
  const colours = distinctColours(12)
  assert.deepEqual(colours.slice(0, 2), [
    [255, 0, 0],
    [0, 255, 0]
  ])
  assert.equal(new Set(colours.map(String)).size, 12)
  assert.ok(readable([0, 0, 255]).every((part) => part > 100))
})
