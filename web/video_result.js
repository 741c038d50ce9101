// A node that shows a live preview keeps it in place of its result. For a video the result is what a person wants to see.
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
