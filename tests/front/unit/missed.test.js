import assert from 'node:assert/strict'
import { test } from 'node:test'
import { watchMissed } from '../../../web/js/missed.js'

/** A page whose host has `history`; `say` is a message of the host. */
function page(history) {
  const listeners = {}
  const asked = []
  const told = []
  const made = {
    on: (name, listen) => {
      listeners[name] = listen
    },
    fetch: async (path) => {
      asked.push(path)
      return { json: async () => history }
    },
    workflow: () => 'mine'
  }
  watchMissed(made, (outputs) => told.push(outputs))
  const say = async (name, detail) => {
    listeners[name]({ detail })
    await new Promise((done) => setTimeout(done, 0))
  }
  return { say, asked, told }
}

const job = (workflow, outputs) => ({
  prompt: [1, 'x', {}, { extra_pnginfo: { workflow: { id: workflow } } }],
  outputs
})
const idle = { exec_info: { queue_remaining: 0 } }
const history = { a: job('mine', { 1: 'old' }), b: job('another', { 1: 'no' }), c: job('mine', { 2: 'new' }) }

test('what ended unheard is asked for once', async () => {
  const { say, asked, told } = page(history)
  await say('status', idle)
  await say('promptQueued', { batchCount: 3 })
  await say('status', { exec_info: { queue_remaining: 1 } })
  await say('status', null)
  assert.deepEqual(asked, [])
  await say('status', idle)
  await say('status', idle)
  assert.deepEqual(asked, ['/history?max_items=3'])
  assert.deepEqual(told, [{ 1: 'old' }, { 2: 'new' }])
})

test('what was heard is not asked for, however it ended', async () => {
  for (const end of ['execution_success', 'execution_error', 'execution_interrupted']) {
    const { say, asked } = page(history)
    await say('promptQueued', {})
    await say(end, { prompt_id: 'a' })
    await say('status', idle)
    assert.deepEqual(asked, [])
    await say('promptQueued', { batchCount: 2 })
    await say(end, { prompt_id: 'c' })
    await say('status', idle)
    assert.deepEqual(asked, ['/history?max_items=1'])
  }
})

test('a host that does not answer leaves the page alone', async () => {
  const { say, told } = page({ a: null, b: { prompt: 3 }, c: job('mine', null) })
  await say('promptQueued', {})
  await say('status', idle)
  assert.deepEqual(told, [])
})
