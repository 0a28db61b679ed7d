# Formats of others: compiled Graphite templates, and the readers without a lane.

@cython.final
cdef class Graphite:
    cdef graphite_t *graphite       # owned; not written to once it is made

    def __cinit__(self, templates=(), *, bytes join=b"_"):
        cdef graphite_t *g = <graphite_t *>alloc_aligned(sizeof(graphite_t))
        self.graphite = g
        g.by_default = GRAPHITE_NONE
        if len(join) > <Py_ssize_t>GRAPHITE_JOIN_MAX:
            raise ValueError(f"join is {join!r}; it has {GRAPHITE_JOIN_MAX} bytes at most")
        g.join_length = <uint32_t>len(join)
        if join:
            memcpy(g.join, <const char *>join, len(join))
        templates = list(templates)
        if not templates:
            return
        cdef bytearray texts = bytearray()
        described = [describe_template(filter, parts, dict(tags), texts) for filter, parts, tags in templates]
        root = filter_tree(templates)
        if root["children"]:
            self.set_filters(root, texts)
        elif root["template"] is not None:
            g.by_default = <uint32_t>root["template"]
        self.set_templates(described)
        cdef bytes written = bytes(texts)
        g.text = <uint8_t *>alloc_aligned(len(written) + PORT_PADDING)
        memcpy(g.text, <const char *>written, len(written))

    def __dealloc__(self):
        graphite_free(self.graphite)

    cdef set_templates(self, list described):
        cdef graphite_t *g = self.graphite
        cdef uint32_t at = 0
        g.templates = <graphite_template_t *>alloc_aligned(len(described) * sizeof(graphite_template_t))
        tag_count = sum(len(tags) for _, _, tags in described)
        g.tags = <graphite_part_t *>alloc_aligned((tag_count + 1) * sizeof(graphite_part_t))
        for i, (measurement, field, tags) in enumerate(described):
            fill_part(&g.templates[i].measurement, measurement)
            fill_part(&g.templates[i].field, field)
            g.templates[i].tag_first = at
            g.templates[i].tag_count = <uint32_t>len(tags)
            for tag in tags:
                fill_part(&g.tags[at], tag)
                at += 1

    cdef set_filters(self, dict root, bytearray texts):
        """The tree, level by level, so that the children of a node stand one behind the other."""
        cdef graphite_t *g = self.graphite
        cdef graphite_filter_t *f
        order = [(b"", root)]
        at = 0
        while at < len(order):
            node = order[at][1]
            named = sorted((key for key in node["children"] if key != b"*"), key=lambda key: (len(key), key))
            node["first"], node["count"] = len(order), len(named)
            order += [(key, node["children"][key]) for key in named]
            node["star"] = None
            if b"*" in node["children"]:
                node["star"] = len(order)
                order.append((b"*", node["children"][b"*"]))
            at += 1
        g.filters = <graphite_filter_t *>alloc_aligned(len(order) * sizeof(graphite_filter_t))
        for i, (key, node) in enumerate(order):
            f = &g.filters[i]
            f.text.at, f.text.length = add_text(texts, key)
            f.child_first, f.child_count = node["first"], node["count"]
            f.star = GRAPHITE_NONE if node["star"] is None else node["star"]
            f.template = GRAPHITE_NONE if node["template"] is None else node["template"]


cdef tuple add_text(bytearray texts, bytes text):
    """Where *text* stands in *texts*: offset and length."""
    if len(text) > <Py_ssize_t>GRAPHITE_TEXT_MAX:
        raise ValueError(f"a name or value of a template has more than {GRAPHITE_TEXT_MAX} bytes")
    at = len(texts)
    texts += text
    return at, len(text)


cdef tuple describe_template(filter, parts, dict tags, bytearray texts):
    """Parts by what they become: (key, constant, nodes, rest) of measurement and field, and of each tag."""
    if len(parts) > <Py_ssize_t>GRAPHITE_NODES_MAX or len(filter) > <Py_ssize_t>GRAPHITE_NODES_MAX:
        raise ValueError(f"a template has at most {GRAPHITE_NODES_MAX} parts, and its filter as many nodes")
    cdef dict nodes = {}
    cdef list special = []
    for index, part in enumerate(parts):
        if part.endswith(b"*") and index + 1 < len(parts):
            raise ValueError("a part that takes all nodes from there on is the last one")
        if part:
            nodes.setdefault(part, []).append(index)
    for name in (b"measurement", b"field"):
        rest = nodes.pop(name + b"*", [])
        special.append(((0, 0), (0, 0), nodes.pop(name, []) + rest, bool(rest)))
    named = []
    for name in [*tags, *[name for name in nodes if name not in tags]]:
        key, constant = add_text(texts, name), add_text(texts, tags.get(name, b""))
        named.append((key, constant, nodes.get(name, []), False))
    return special[0], special[1], named


cdef dict filter_tree(list templates):
    """Nodes of filters: children by their text, and the index of the template whose filter ends there."""
    root = {"children": {}, "template": None}
    for index, (filter, _, _) in enumerate(templates):
        node = root
        for text in filter:
            node = node["children"].setdefault(text, {"children": {}, "template": None})
        node["template"] = index
    return root


cdef void fill_part(graphite_part_t *part, object described) except *:
    key, constant, nodes, rest = described
    part.key.at, part.key.length = key
    part.constant.at, part.constant.length = constant
    part.node_count = <uint8_t>len(nodes)
    for i, node in enumerate(nodes):
        part.node[i] = node
    part.rest = rest


cdef Graphite plain_graphite = Graphite()


cdef enum Format:
    FORMAT_GRAPHITE
    FORMAT_PROTOBUF
    FORMAT_OTLP


cdef dict READ_FORMATS = {"graphite": FORMAT_GRAPHITE, "protobuf": FORMAT_PROTOBUF, "otlp": FORMAT_OTLP}


cdef Format format_of(str name) except *:
    if name not in READ_FORMATS:
        raise ValueError(f"format is {name!r}; it is one of {', '.join(READ_FORMATS)}")
    return <Format><int>READ_FORMATS[name]


cdef void read_one(Format format, const graphite_t *graphite, line_reader_t *reader, const uint8_t *p,
                   uint64_t n, line_counts_t *counts) noexcept nogil:
    """Read p[0..n), PORT_PADDING readable behind it."""
    if format == FORMAT_GRAPHITE:
        graphite_read(graphite, reader, p, <uint32_t>n, counts)
    elif format == FORMAT_PROTOBUF:
        remote_read(reader, p, n, counts)
    elif format == FORMAT_OTLP:
        otlp_read(reader, p, n, counts)


def read_format(const uint8_t[::1] data not None, str format, *, Graphite graphite=None, str precision="s",
                object tags=(), int64_t now_ns=0, uint32_t line_bytes_max=65536):
    cdef uint64_t n = data.shape[0]
    cdef Format kind = format_of(format)
    cdef Graphite compiled = graphite if graphite is not None else plain_graphite
    cdef line_tags_t *extra = tags_of(tags)
    cdef line_reader_t *reader = NULL
    cdef uint8_t *text = NULL
    cdef line_counts_t counts
    cdef ring_batch_t found
    cdef Py_ssize_t i
    cdef Ring ring
    memset(&counts, 0, sizeof(counts))
    body = b""
    try:
        if n > <uint64_t>1 << 26:
            raise ValueError("more than 64 MiB at once")
        ring = Ring(None, 32 * n + (1 << 22), Waker(), slot_bytes=1 << 30, slot_metrics=1 << 30)
        reader = <line_reader_t *>alloc_aligned(sizeof(line_reader_t))
        text = <uint8_t *>malloc(n + PORT_PADDING)
        if text == NULL:
            raise MemoryError()
        if n:
            memcpy(text, &data[0], n)
        memset(text + n, 0, PORT_PADDING)
        line_reader_open(reader, scan_kernel, extra)
        reader.rings[0] = ring.ring
        reader.ring_count = 1
        reader.precision = precision_of(precision)
        reader.line_bytes_max = line_bytes_max
        reader.arrival_ns = now_ns
        reader.stamp_ns = now_ns - 1
        with nogil:
            read_one(kind, compiled.graphite, reader, text, n, &counts)
            ring_publish(ring.ring)
        if ring_take(ring.ring, <uint64_t>-1, <uint64_t>-1, True, &found):
            body = found.bytes[:found.length]
            ring_free(ring.ring, &found)
    finally:
        line_tags_free(extra)
        free(text)
        if reader != NULL:
            line_reader_close(reader)
            free(reader)
    return {
        "body": body,
        "received": counts.received,
        "accepted": counts.accepted,
        "rewritten": counts.rewritten,
        "clamped": counts.clamped,
        "dropped": {REASONS[i]: counts.dropped[i] for i in range(DROP_REASONS) if counts.dropped[i]},
    }


def bench_format(const uint8_t[::1] data not None, str format, double seconds, *, Graphite graphite=None,
                 object tags=(), uint64_t times=1):
    """Read *data* into a ring again and again for *seconds*, *times* between two looks at the clock."""
    cdef uint64_t n = data.shape[0], _k
    cdef Format kind = format_of(format)
    cdef Graphite compiled = graphite if graphite is not None else plain_graphite
    cdef line_counts_t counts
    cdef ring_batch_t found
    cdef Ring ring = Ring(None, 32 * n + (1 << 22), Waker(), slot_bytes=65536, slot_metrics=256)
    cdef line_tags_t *extra = tags_of(tags)
    cdef line_reader_t *reader = NULL
    cdef uint8_t *text = NULL
    cdef int64_t start, now, cpu
    cdef uint64_t passes = 0
    memset(&counts, 0, sizeof(counts))
    try:
        reader = <line_reader_t *>alloc_aligned(sizeof(line_reader_t))
        text = <uint8_t *>malloc(n + PORT_PADDING)
        if text == NULL:
            raise MemoryError()
        memcpy(text, &data[0], n)
        memset(text + n, 0, PORT_PADDING)
        line_reader_open(reader, scan_kernel, extra)
        reader.rings[0] = ring.ring
        reader.ring_count = 1
        reader.precision = LINE_S
        with nogil:
            reader.arrival_ns = clock_ns(CLOCK_REALTIME)
            start = now = clock_ns(CLOCK_MONOTONIC)
            cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID)
            while now - start < <int64_t>(seconds * 1e9):
                for _k in range(times):
                    ring_begin(ring.ring)
                    read_one(kind, compiled.graphite, reader, text, n, &counts)
                    ring_publish(ring.ring)
                    while ring_take(ring.ring, <uint64_t>-1, <uint64_t>-1, True, &found):
                        ring_free(ring.ring, &found)
                passes += times
                now = clock_ns(CLOCK_MONOTONIC)
            cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu
    finally:
        line_tags_free(extra)
        free(text)
        if reader != NULL:
            line_reader_close(reader)
            free(reader)
        ring.close()
    return {"received": counts.received, "accepted": counts.accepted, "bytes": passes * n, "ns": now - start,
            "cpu_ns": cpu}
