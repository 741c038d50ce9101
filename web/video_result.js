// ComfyUI keeps showing a node's live preview instead of its result. For a video, the result should be shown.
import { app } from '../../scripts/app.js'

app.registerExtension({
  name: 'Megapixel.VideoResult',
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== 'MegapixelUpscaleVideo') return
    const before = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (output) {
      before?.call(this, output)
      const previews = app.nodePreviewImages ?? {}
      for (const key of Object.keys(previews)) {
        // Inside a subgraph the key is "<subgraph>:<node>".
        if (key === String(this.id) || key.endsWith(`:${this.id}`)) delete previews[key]
      }
      this.setDirtyCanvas(true, true)
    }
  }
})
