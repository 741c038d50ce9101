"""A node's life in the real front end: bypassed, muted, made anew, inside a subgraph,
and what it reports of its run.

The front end connects the output of a bypassed node to the input at the same place if the types match, else
to the first input of that type. The table is what this must give for each node of the pack; None is no
connection, which the host reports at the node that needs one ("Required input is missing").
"""

from __future__ import annotations

import json

import pytest
from megapixel.nodes import NODES

from devhost.environment import ROOT
from devhost.workflow import prompt_node, to_graph

BYPASS, MUTE = 4, 2

PASSES = {  # node: what each output gives when the node is bypassed, with every input connected
    "MegapixelDeepShrink": {"MODEL": "model"},
    "MegapixelHiDiffusion": {"MODEL": "model"},
    "MegapixelRAUNetSimple": {"MODEL": "model"},
    "MegapixelRAUNet": {"MODEL": "model"},
    "MegapixelMSWMSASimple": {"MODEL": "model"},
    "MegapixelMSWMSA": {"MODEL": "model"},
    "MegapixelPlan": {"IMAGE": None},
    "MegapixelUpscale": {"IMAGE": "image"},
    "MegapixelUpscaleVideo": {"video": "video"},
    "MegapixelSEGSUpscale": {"IMAGE": "image"},
    "MegapixelSEGSUpscalePipe": {"IMAGE": "image"},
    "MegapixelMaskToSEGS": {"SEGS": None},
    "MegapixelTilesToSEGS": {"SEGS": None},
    "MegapixelFacesToSEGS": {"SEGS": None},
    "MegapixelSEGSPreview": {"IMAGE": "image"},
    "MegapixelSEGSFilter": {"segs": "segs", "others": "more_segs", "count": None},
    "MegapixelSEGSSlice": {"SEGS": "segs"},
    "MegapixelSEGSSend": {"IMAGE": "result"},
    "MegapixelSEGSMerge": {"IMAGE": "image", "missing": "segs"},
    "MegapixelSEGSImages": {"images": "image"},
    "MegapixelSEGSTexts": {"segment_texts": None},
    "MegapixelSaveProgressHook": {"UPSCALER_HOOK": None},
    "MegapixelSchedulerFunction": {"SCHEDULER_FUNC": None},
    "MegapixelFaceAnalysis": {"FACEANALYSIS": None},
    # A photograph replaces the keypoints: Apply InstantID detects its face, the ControlNet node reports it.
    "MegapixelFaceKeypoints": {"keypoints": "image", "boxes": "image"},
    "MegapixelInstantIDLoader": {"INSTANTID": None},
    "MegapixelInstantIDApply": {"MODEL": "model", "positive": "positive", "negative": "negative"},
    "MegapixelInstantIDAttention": {"MODEL": "model", "FACE_EMBEDS": None},
    "MegapixelInstantIDControlNet": {"positive": "positive", "negative": "negative"},
}
EARLIER_SOCKETS = {  # the order in which graphs of the first release hold them, where it has changed
    "MegapixelInstantIDApply": [
        "instantid", "insightface", "control_net", "image", "model", "positive", "negative", "image_kps", "mask",
    ],
    "MegapixelInstantIDAttention": ["instantid", "insightface", "image", "model", "mask"],
    "MegapixelInstantIDControlNet": ["face_embeds", "control_net", "image_kps", "positive", "negative", "mask"],
}  # fmt: skip

# Builds a graph of one node with a source for each socket and a sink for each output, titled by name.
_BUILD = """(type) => {
    const declare = (name, sockets) => {
        class Made extends LiteGraph.LGraphNode {
            constructor(title) {
                super(title ?? name)
                this.comfyClass = name
                sockets(this)
            }
        }
        LiteGraph.registerNodeType(name, Made)
        return LiteGraph.createNode(name)
    }
    const node = LiteGraph.createNode(type)
    node.title = 'tested'
    app.graph.add(node)
    node.inputs.filter((input) => !input.widget).forEach((input, place) => {
        const source = declare(`source ${input.type}`, (made) => made.addOutput('value', input.type))
        source.title = input.name
        source.pos = [-500, 120 * place]
        app.graph.add(source)
        source.connect(0, node, input.name)
    })
    node.outputs.forEach((output, place) => {
        const sink = declare(`sink ${output.type}`, (made) => made.addInput('value', output.type))
        sink.title = `to ${output.name}`
        sink.pos = [900, 120 * place]
        app.graph.add(sink)
        node.connect(place, sink, 0)
    })
}"""
_TESTED = """(graph) => (graph.nodes ?? graph._nodes).find((node) => node.title === 'tested')"""
_SET_MODE = f"(mode) => {{ ({_TESTED})(app.graph).mode = mode }}"
_INTO_SUBGRAPH = f"""(mode) => {{
    const {{ subgraph }} = app.graph.convertToSubgraph(new Set([({_TESTED})(app.graph)]))
    ;({_TESTED})(subgraph).mode = mode
}}"""
_REACH = """async () => {
    const { output } = await app.graphToPrompt()
    const titles = Object.fromEntries(app.graph.nodes.map((node) => [node.id, node.title]))
    const reached = {}
    for (const node of app.graph.nodes) {
        if (!node.title.startsWith('to ')) continue
        const value = output[node.id]?.inputs.value
        reached[node.title.slice(3)] = value ? (titles[value[0]] ?? value[0]) : null
    }
    return reached
}"""
# As graphs were saved before: the sockets of the node in an earlier order, its links at their places.
_EARLIER = f"""async (order) => {{
    const saved = JSON.parse(JSON.stringify(app.graph.serialize()))
    const node = ({_TESTED})(saved)
    const sockets = order.map((name) => node.inputs.find((input) => input.name === name))
    node.inputs = [...sockets, ...node.inputs.filter((input) => !order.includes(input.name))]
    for (const link of saved.links)
        if (link[3] === node.id) link[4] = node.inputs.findIndex((input) => input.link === link[0])
    await app.loadGraphData(saved)
}}"""
# As ComfyUI Manager's "Fix node (recreate)": a new node takes over all links by the names of the sockets.
_MAKE_ANEW = f"""() => {{
    const old = ({_TESTED})(app.graph)
    const made = LiteGraph.createNode(old.type)
    app.graph.add(made)
    for (const input of old.inputs.filter((input) => input.link != null)) {{
        const link = app.graph.links.get(input.link)
        app.graph.getNodeById(link.origin_id).connect(link.origin_slot, made, input.name)
    }}
    for (const output of old.outputs) {{
        const place = made.outputs.findIndex((other) => other.name === output.name)
        for (const id of [...(output.links ?? [])]) {{
            const link = app.graph.links.get(id)
            made.connect(place, app.graph.getNodeById(link.target_id), link.target_slot)
        }}
    }}
    app.graph.remove(old)
    made.title = 'tested'
}}"""
_LINKS = f"""() => Object.fromEntries(({_TESTED})(app.graph).inputs.filter((input) => input.link != null).map((input) => {{
    const link = app.graph.links.get(input.link)
    return [input.name, app.graph.getNodeById(link.origin_id).title]
}}))"""

_NOTICES = """() => {
    const notices = {}
    const read = (graph) => graph.nodes.forEach((node) => {
        if (node.subgraph) read(node.subgraph)
        const widget = node.widgets?.find((widget) => widget.name === 'megapixel_notice')
        if (widget) notices[node.title] = widget.element.textContent
    })
    read(app.graph)
    return notices
}"""
_SET_MASK = (
    "(value) => { app.graph.nodes.find((node) => node.type === 'SolidMask').widgets[0].value = value }"
)

_LAST_RUN = "() => fetch('/api/history?max_items=1').then((answer) => answer.json())"
_RUN_SELECTED = """(title) => {
    app.canvas.selectItems([app.graph.nodes.find((node) => node.title === title)])
    return app.extensionManager.command.execute('Comfy.QueueSelectedOutputNodes')
}"""


@pytest.fixture
def build(front_end):
    """A function that replaces the graph of the page by a node with everything connected."""

    def built(node_type):
        front_end.clear()
        front_end.page.evaluate(_BUILD, node_type)
        return front_end.page

    return built


def named(node_type, reached):
    """What is reached, by the names of the table: outputs without a name of their own have their type's."""
    return {name: reached.get(name, "no such output") for name in PASSES[node_type]}


def test_the_table_has_every_node():
    assert set(PASSES) == {node.__name__ for node in NODES}


def test_a_bypassed_node_hands_on_what_the_table_says_and_a_muted_one_nothing(build):
    reached = {}
    for node_type, outputs in PASSES.items():
        page = build(node_type)
        page.evaluate(_SET_MODE, BYPASS)
        reached[node_type] = named(node_type, page.evaluate(_REACH))
        page.evaluate(_SET_MODE, MUTE)
        assert named(node_type, page.evaluate(_REACH)) == dict.fromkeys(outputs)
    assert reached == PASSES


def test_the_same_inside_a_subgraph(build):
    reached = {}
    for node_type in PASSES:
        page = build(node_type)
        page.evaluate(_INTO_SUBGRAPH, BYPASS)
        reached[node_type] = named(node_type, page.evaluate(_REACH))
    assert reached == PASSES


def test_graphs_saved_with_the_earlier_order_of_sockets_open_whole_and_bypass_the_same(build):
    for node_type, order in EARLIER_SOCKETS.items():
        page = build(node_type)
        page.evaluate(_EARLIER, order)
        assert page.evaluate(_LINKS) == {name: name for name in order}
        page.evaluate(_SET_MODE, BYPASS)
        assert named(node_type, page.evaluate(_REACH)) == PASSES[node_type]


def test_a_node_that_is_made_anew_keeps_its_links(build):
    for node_type in PASSES:
        page = build(node_type)
        if node_type in EARLIER_SOCKETS:
            page.evaluate(_EARLIER, EARLIER_SOCKETS[node_type])
        links, reached = page.evaluate(_LINKS), page.evaluate(_REACH)
        page.evaluate(_MAKE_ANEW)
        assert page.evaluate(_LINKS) == links
        assert named(node_type, page.evaluate(_REACH)) == named(node_type, reached)
        assert set(named(node_type, reached).values()) == {"tested"}


def black_mask(label, **previews):
    """Nodes that make segments of a black mask, and previews of them by their ids; with a label of its own
    nothing is in the cache.
    """
    return {
        "1": prompt_node("LoadImage", "Picture", image="example.png"),
        "2": prompt_node("SolidMask", "Mask", value=0.0, width=48, height=32),
        "3": prompt_node(
            "MegapixelMaskToSEGS", "Segments", mask=["2", 0], combined=False, crop_factor=2.0, bbox_fill=False, drop_size=4,
            contour_fill=False, label=label,
        ),
    } | {
        number: prompt_node("MegapixelSEGSPreview", title, segs=["3", 0], image=["1", 0])
        for number, title in previews.items()
    }  # fmt: skip


@pytest.fixture
def opened(server, front_end, tmp_path):
    """A function that opens the graph of a prompt."""

    def open_prompt(prompt):
        file = tmp_path / "graph.json"
        file.write_text(json.dumps(to_graph(prompt, server.object_info())), encoding="utf-8")
        front_end.drop(file)
        return front_end.graph()

    return open_prompt


def test_only_the_output_that_is_selected_is_run(front_end, opened):
    opened(black_mask("selected", **{"4": "First", "5": "Second"}))
    front_end.page.evaluate(_RUN_SELECTED, "Second")
    front_end.page.get_by_text("segs: nothing to do, there is no segment to draw.").wait_for()
    [run] = front_end.page.evaluate(_LAST_RUN).values()
    assert "5" in run["outputs"]
    assert "4" not in run["outputs"]
    assert "3" in run["outputs"]  # what leads to it tells its notices as ever


def test_what_a_node_reports_appears_at_it_and_disappears_in_a_run_that_acts(front_end, opened):
    saved = opened(black_mask("reported", **{"4": "Preview"}))
    front_end.press_run()
    front_end.page.get_by_text("mask: nothing to do, the mask is black: there is no segment.").wait_for()
    front_end.page.get_by_text("segs: nothing to do, there is no segment to draw.").wait_for()
    values = [node.get("widgets_values") or [] for node in front_end.graph()["nodes"]]
    assert values == [node.get("widgets_values") or [] for node in saved["nodes"]]  # it is not saved
    front_end.page.screenshot(path=ROOT / "output" / "browser" / "nothing_to_do.png")
    front_end.page.evaluate(_SET_MASK, 1)
    front_end.press_run()
    front_end.page.get_by_text("nothing to do").first.wait_for(state="detached")


BLACK = {
    "Segments": "mask: nothing to do, the mask is black: there is no segment.",
    "tested": "segs: nothing to do, there is no segment to draw.",
}


@pytest.mark.parametrize("place", ["graph", "subgraph"])
def test_what_a_node_reports_is_shown_as_long_as_its_result_counts(front_end, opened, place):
    opened(black_mask(place, **{"4": "tested"}))
    if place == "subgraph":
        front_end.page.evaluate(_INTO_SUBGRAPH, 0)
    for step, mask in {"first": 0, "the same, from the cache": 0, "white": 1, "black again": 0}.items():
        front_end.page.evaluate(_SET_MASK, mask)
        assert front_end.run() == "execution_success"
        assert front_end.page.evaluate(_NOTICES) == ({} if mask else BLACK), step


def test_it_is_shown_again_where_the_graph_is_opened_anew_and_the_result_is_cached(front_end, opened):
    prompt = black_mask("anew", **{"4": "tested"})
    for _ in range(2):
        opened(prompt)
        assert front_end.page.evaluate(_NOTICES) == {}
        front_end.run()
        assert front_end.page.evaluate(_NOTICES) == BLACK


def test_it_stays_where_another_part_of_the_graph_runs(front_end, opened):
    opened(black_mask("parts", **{"4": "tested", "5": "other"}))
    for title in ("tested", "other"):
        front_end.page.evaluate(_RUN_SELECTED, title)
        front_end.page.wait_for_function(f"(title) => title in ({_NOTICES})()", arg=title)
    assert front_end.page.evaluate(_NOTICES) == {**BLACK, "other": BLACK["tested"]}
