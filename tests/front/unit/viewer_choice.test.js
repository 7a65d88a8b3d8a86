import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cellAt, layerMeans, niceStep, plotOf, shownValue } from '../../../web/js/viewer/chart.js'
import { choiceOf, clicked, fieldsOf, moved, rankedWords, wantedOf, withKind } from '../../../web/js/viewer/choice.js'
import { chartOf, Kept } from '../../../web/js/viewer/exhibit.js'
import { errorOf } from '../../../web/js/viewer/source.js'
import { fitted, tokenAt } from '../../../web/js/viewer/stage.js'
import { namesText, numbersText, percents, rangesText, readNames, readNumbers } from '../../../web/js/viewer/text.js'

/** @type {(layers: number[], entities: string[]) => import('../../../web/js/viewer/source.js').Held} */
const held = (layers, entities) => ({
  layers,
  entities,
  colours: entities.map(() => [1, 2, 3]),
  heads: [],
  points: {},
  counts: [1, 1, 1]
})

/** @type {import('../../../web/js/viewer/source.js').Manifest} */
const MANIFEST = {
  version: 1,
  label: '',
  backbone: 'wan',
  branch: 'cond',
  notes: [],
  steps: [0, 5, 10].map((index) => ({ index, sigma: 1, calls: 1 })),
  experts: { 'low noise': [5, 10] },
  streams: [
    {
      prompt: [],
      phrases: [],
      grid: [2, 3, 4],
      size: [64, 48],
      box: [0, 0, 1, 1],
      pictures: [
        [0, 0],
        [1, 1]
      ],
      maps: { v2v: held([3, 7], ['cyclist', 'van']), v2t: held([0, 3, 7], ['cyclist', 'waits, long', 'van']) },
      masks: []
    }
  ],
  film: { frames: 0, width: 0, height: 0, fps: 8 },
  colormaps: {}
}

test('numbers as people write them, both ways', () => {
  assert.equal(rangesText([0, 3, 4, 5, 9]), '0, 3-5, 9')
  assert.equal(numbersText([1, 2], [1, 2]), 'all')
  assert.deepEqual(readNumbers('7, 11-13', [3, 7, 11, 12]), [7, 11, 12])
  assert.deepEqual(readNumbers('', [3, 7]), [3, 7])
  assert.deepEqual(readNumbers('first, LAST', [3, 5, 7]), [3, 7])
  assert.deepEqual(readNumbers('low noise', [0, 5, 10], { 'low noise': [5, 10] }), [5, 10])
  for (const wrong of ['x', '4', '7-', '1e9', '9'.repeat(30), '0-1, 99']) assert.equal(readNumbers(wrong, [3, 7]), null)
})

test('names, also those with a comma in them', () => {
  const names = ['cyclist', 'waits, long', 'van']
  assert.deepEqual(readNames('VAN, cyclist', names), ['cyclist', 'van'])
  assert.deepEqual(readNames('waits, long', names), ['waits, long'])
  assert.equal(readNames('cyclist, bus', names), null)
  assert.equal(namesText(['waits, long'], names), 'waits, long')
  assert.equal(namesText(['cyclist', 'waits, long'], names), null)
  assert.equal(namesText(names, names), 'all')
})

test('percents have the digits of the greater', () => {
  assert.deepEqual(percents(0.001, 0.0092), ['0.10 %', '0.92 %'])
  assert.deepEqual(percents(0, 0.5), ['0 %', '50 %'])
  assert.deepEqual(percents(0, 0), ['0 %', '0 %'])
})

test('fields become a choice and fields again; what cannot be read is everything, and is told', () => {
  const fields = { kind: 'v2t', names: 'van', layers: '3-7', steps: '10', stream: 0 }
  const { choice, notes } = choiceOf(MANIFEST, fields)
  assert.deepEqual(notes, [])
  assert.deepEqual([choice.names, choice.layers, choice.steps], [['van'], [3, 7], [10]])
  const kept = fieldsOf(MANIFEST, choice)
  assert.deepEqual(
    [kept.names, kept.layers, kept.steps, kept.kind],
    ['van', '3-7', '10', 'v2t'].map((t) => (t === '3-7' ? '3, 7' : t))
  )
  const broken = choiceOf(MANIFEST, { names: '<b>', layers: '99', steps: 'all', stream: 8, kind: 'other' })
  assert.equal(broken.notes.length, 2)
  assert.equal(broken.choice.kind, 'v2t')
  assert.deepEqual(broken.choice.layers, [0, 3, 7])
})

test('another kind keeps the names and layers that it has, too', () => {
  const { choice } = choiceOf(MANIFEST, { kind: 'v2t', names: 'van', layers: '0, 7' })
  const turned = withKind(MANIFEST, choice, 'v2v')
  assert.deepEqual([turned.kind, turned.names, turned.layers], ['v2v', ['van'], [7]])
  const { choice: verb } = choiceOf(MANIFEST, { kind: 'v2t', names: 'waits, long' })
  assert.deepEqual(withKind(MANIFEST, verb, 'v2v').names, ['cyclist', 'van'])
})

test('a second capture is asked for the layers and steps that it has', () => {
  const { choice } = choiceOf(MANIFEST, { layers: '0, 7', steps: '0, 10' })
  const other = structuredClone(MANIFEST)
  other.streams[0].maps.v2t.layers = [7, 8]
  assert.deepEqual(wantedOf(other, choice)?.layers, [7])
  assert.equal(wantedOf(other, { ...choice, layers: [0] }), null)
  assert.equal(wantedOf(other, { ...choice, kind: 'heads' }), null)
})

test('clicks and keys', () => {
  const names = ['a', 'b', 'c']
  assert.deepEqual(clicked(['a', 'b'], 'c', false, names), ['c'])
  assert.deepEqual(clicked(['c'], 'a', true, names), ['a', 'c'])
  assert.deepEqual(clicked(['a', 'c'], 'a', true, names), ['c'])
  assert.deepEqual(clicked(['c'], 'c', true, names), ['c'])
  assert.deepEqual(moved([3, 7], [0, 3, 7], 1), [0])
  assert.deepEqual(moved([3], [0, 3, 7], 1), [7])
  assert.deepEqual(moved([7], [0, 3, 7], 1), [7])
  assert.deepEqual(moved([0, 3, 7], [0, 3, 7], -1), [7])
})

test('words at a place are ranked; those that were not recorded are left out', () => {
  const ranked = rankedWords([
    { name: 'a', value: 0.1, mean: 0.05 },
    { name: 'b', value: null, mean: 0.05 },
    { name: 'c', value: 0.3, mean: 0 }
  ])
  assert.deepEqual(ranked, [
    { name: 'c', value: 0.3, times: 0 },
    { name: 'a', value: 0.1, times: 2 }
  ])
})

test('the chart: cells, means weighed by calls, chance', () => {
  const plot = plotOf(300, 200, 4, 10)
  assert.ok(plot.cell[0] * 10 <= 300 - 26 && plot.cell[1] * 4 <= 200)
  assert.deepEqual(cellAt(plot, plot.left + 1, plot.top + 1, 4, 10), { layer: 0, step: 0 })
  assert.deepEqual(cellAt(plot, plot.left - 9, plot.top + plot.height - 1, 4, 10), { layer: 3, step: null })
  assert.deepEqual(cellAt(plot, plot.left + 1, plot.top + plot.height + 9, 4, 10), { layer: null, step: 0 })
  assert.deepEqual(cellAt(plot, -50, 1e6, 4, 10), { layer: null, step: null })
  /** @type {(codes: number[]) => string} */
  const packed = (codes) => Buffer.from(Uint16Array.from(codes).buffer).toString('base64')
  const chart = chartOf({
    values: packed([65534, 65535, 32767, 0]),
    weights: packed([1, 1, 3, 1]),
    chance: 0.25,
    aligned: true
  })
  assert.ok(Number.isNaN(shownValue([chart], 1)))
  assert.ok(Math.abs(shownValue([chart], 2) - 1 / 3) < 1e-4)
  const { means, chance } = layerMeans([chart], 2, 2)
  assert.equal(means[0], 1)
  assert.ok(Math.abs(means[1] - 0.375) < 1e-4)
  assert.equal(chance, 0.25)
  assert.equal(niceStep(50, 10), 5)
})

test('places of the picture', () => {
  assert.deepEqual(fitted(400, 300, [64, 64]), { left: 50, top: 0, width: 300, height: 300 })
  const picture = { box: /** @type {[number, number, number, number]} */ ([0.25, 0, 0.75, 1]), rows: 2, columns: 4 }
  assert.deepEqual(tokenAt(picture, 0.3, 0.9), { row: 1, column: 0 })
  assert.equal(tokenAt(picture, 0.1, 0.5), null)
})

test('what is kept stays within its bound, the latest longest', () => {
  /** @type {string[]} */
  const dropped = []
  const kept = new Kept(
    3,
    () => 1,
    (/** @type {string} */ thing) => dropped.push(thing)
  )
  for (const name of ['a', 'b', 'c']) kept.put(name, name)
  kept.get('a')
  kept.put('d', 'd')
  assert.deepEqual(dropped, ['b'])
  assert.equal(kept.get('b'), undefined)
  kept.put('d', 'd')
  assert.equal(kept.used, 3)
  kept.clear()
  assert.equal(kept.used, 0)
})

test('an answer that is none says why', () => {
  assert.equal(errorOf('{"error": "gone"}'), 'gone')
  assert.equal(errorOf('<html>'), '<html>')
})
