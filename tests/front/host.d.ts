/** The part of ComfyUI's page that web/js uses, where its published types leave it out. */
import type { ComfyApp, ComfyExtension } from '@comfyorg/comfyui-frontend-types'

type Created = Parameters<NonNullable<ComfyExtension['nodeCreated']>>[0]

export interface PanelOptions {
  serialize?: boolean
  hideOnZoom?: boolean
  getMinHeight?: () => number
  getMaxHeight?: () => number
}

export type HostNode = Omit<Created, 'constructor' | 'onConfigure' | 'onRemoved'> & {
  constructor: { nodeData?: { category?: string } }
  comfyClass?: string
  imgs?: HTMLImageElement[]
  onRemoved?: () => void
  onExecuted?: (output: unknown) => void
  onConfigure?: (saved: object) => void
  addDOMWidget(name: string, type: string, element: HTMLElement, options?: PanelOptions): { serialize?: boolean }
}

export interface Extension {
  name: string
  nodeCreated?(node: HostNode): void
  onNodeOutputsUpdated?(outputs: Record<string, unknown>): void
}

export type App = Omit<ComfyApp, 'registerExtension'> & {
  registerExtension(extension: Extension): void
}
