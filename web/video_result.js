// A node that shows a live preview keeps it in place of its result. For a video the result is what a person wants to see.
import { app } from '../../scripts/app.js'

// Front ends from 1.58 on draw the previews that a store of their own has; `app.nodePreviewImages` is a copy of it.
function previewStore() {
  const page = document.getElementById('vue-app')?.__vue_app__
  return page?.config.globalProperties.$pinia?._s.get('nodeOutput')
}

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
        if (key !== String(this.id) && !key.endsWith(`:${this.id}`)) continue
        previewStore()?.revokePreviewsByLocatorId?.(key)
        delete previews[key]
      }
      this.setDirtyCanvas(true, true)
    }
  }
})
