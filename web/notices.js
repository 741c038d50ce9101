// Shows what a Megapixel node says of its run ("nothing to do, …") at the node, until the next run begins.
import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

const NAME = 'megapixel_notice'
const shown = new Set()

function remove(node) {
  const index = node.widgets?.findIndex((widget) => widget.name === NAME) ?? -1
  if (index < 0) return
  node.widgets[index].onRemove?.()
  node.widgets.splice(index, 1)
  node.setSize([node.size[0], node.computeSize()[1]])
  shown.delete(node)
}

function show(node, text) {
  remove(node)
  const element = document.createElement('div')
  element.textContent = text
  element.style.cssText = 'font-size: 11px; line-height: 1.3; opacity: 0.8; overflow: auto; user-select: text'
  const widget = node.addDOMWidget(NAME, NAME, element, { serialize: false, hideOnZoom: false, getMinHeight: () => 48 })
  widget.serialize = false // neither in the saved graph nor in the prompt
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
  shown.add(node)
}

app.registerExtension({
  name: 'Megapixel.Notices',
  setup() {
    api.addEventListener('execution_start', () => [...shown].forEach(remove))
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith('Megapixel')) return
    const before = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (output) {
      before?.call(this, output)
      if (output?.text) show(this, [].concat(output.text).join('\n'))
    }
  }
})
