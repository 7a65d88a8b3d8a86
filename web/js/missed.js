/**
 * Jobs of this page of which no message came. The host sends what nodes said to the connection that the page had when it
 * queued the job: a page that has just been opened may have none yet, and one that lost its connection has another. What
 * such a job left is in the host's history.
 */

/** Messages that end a job. */
const ENDS = /** @type {const} */ (['execution_success', 'execution_error', 'execution_interrupted'])
const MOST = 8

/**
 * @typedef {object} Page
 * @property {(name: string, listen: (event: {detail: any}) => void) => void} on listens to a message of the host
 * @property {(path: string) => Promise<Response>} fetch
 * @property {() => string | undefined} workflow id of the workflow that is open
 */

/**
 * Calls `told` with the outputs, by node id, of every job that this page queued, that has ended, and of which the page
 * heard nothing.
 * @param {Page} page
 * @param {(outputs: Record<string, unknown>) => void} told
 */
export function watchMissed(page, told) {
  /** @type {Set<string>} */
  const heard = new Set()
  let open = 0
  page.on('promptQueued', ({ detail }) => {
    open += Number(detail?.batchCount) || 1
  })
  for (const end of ENDS) {
    page.on(end, ({ detail }) => {
      heard.add(String(detail?.prompt_id))
      open = Math.max(0, open - 1)
    })
  }
  page.on('status', ({ detail }) => {
    if (open === 0 || detail?.exec_info?.queue_remaining !== 0) return
    const count = Math.min(open, MOST)
    open = 0
    missed(page, count, heard).then(
      (every) => every.forEach(told),
      () => undefined
    )
  })
}

/**
 * @param {Page} page
 * @param {number} count how many jobs are looked at, the newest first
 * @param {Set<string>} heard jobs that are known
 * @returns {Promise<Record<string, unknown>[]>} outputs of jobs of the open workflow, the oldest job first
 */
async function missed(page, count, heard) {
  const reply = await page.fetch(`/history?max_items=${count}`)
  const jobs = Object.entries(/** @type {Record<string, any>} */ (await reply.json()))
  return jobs
    .filter(([id, job]) => !heard.has(id) && workflowOf(job) === page.workflow() && job?.outputs)
    .map(([, job]) => job.outputs)
}

/** @param {any} job */
function workflowOf(job) {
  return job?.prompt?.[3]?.extra_pnginfo?.workflow?.id ?? ''
}
