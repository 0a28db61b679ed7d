# [[map]] and [[shape]] in the form that writers read: made once by agent/rules.py, shared, never changed.


@cython.final
cdef class Rules:
    cdef plan_rules_t rules
    # Own what the structs point at: texts and patterns, and arrays of structs.
    cdef list kept
    cdef list blocks

    def __cinit__(self, shape=(), map=()):
        self.kept = []
        self.blocks = []
        cdef shape_rule_t *shapes
        cdef map_rule_t *maps
        shapes = <shape_rule_t *>self.room(len(shape), sizeof(shape_rule_t))
        for i, rule in enumerate(shape):
            self.fill_shape(&shapes[i], rule)
        self.rules.shape.rules = shapes
        self.fill_index(&self.rules.shape.index, [beginnings(rule[0]) for rule in shape])
        maps = <map_rule_t *>self.room(len(map), sizeof(map_rule_t))
        for i, rule in enumerate(map):
            self.fill_map(&maps[i], rule)
        self.rules.map.rules = maps
        self.fill_index(&self.rules.map.index, [{(<Pattern>rule[0]).literal} for rule in map])

    def __dealloc__(self):
        for block in self.blocks or ():
            free(<void *><size_t>block)

    cdef void *room(self, size_t count, size_t size) except NULL:
        cdef void *block = alloc_aligned(count * size + 1)
        self.blocks.append(<size_t>block)
        return block

    cdef int fill_text(self, plan_text_t *to, bytes text) except -1:
        cdef bytes padded = text + bytes(PORT_PADDING)
        self.kept.append(padded)
        to.p = padded
        to.n = <uint32_t>len(text)
        return 0

    cdef const pattern_t *pattern_of(self, Pattern pattern) except NULL:
        self.kept.append(pattern)
        return &pattern.pattern

    cdef int fill_globs(self, pattern_list_t *to, globs) except -1:
        wanted, unwanted = globs
        cdef const pattern_t **patterns
        patterns = <const pattern_t **>self.room(len(wanted) + len(unwanted), sizeof(void *))
        for i, pattern in enumerate((*wanted, *unwanted)):
            patterns[i] = self.pattern_of(pattern)
        to.patterns = patterns
        to.wanted = <uint32_t>len(wanted)
        to.unwanted = <uint32_t>len(unwanted)
        return 0

    cdef const plan_pair_t *pairs(self, pairs) except NULL:
        cdef plan_pair_t *to = <plan_pair_t *>self.room(len(pairs), sizeof(plan_pair_t))
        for i, (key, value) in enumerate(pairs):
            self.fill_text(&to[i].key, key)
            self.fill_text(&to[i].value, value)
        return to

    cdef int fill_shape(self, shape_rule_t *to, rule) except -1:
        match, drop, rename, drop_tags, rename_tags, tags, bytes_max, add = rule
        cdef shape_tag_t *tag = <shape_tag_t *>self.room(len(tags), sizeof(shape_tag_t))
        cdef shape_template_t *template
        self.fill_globs(&to.match, match)
        to.drop = drop
        self.fill_text(&to.rename, rename)
        self.fill_globs(&to.drop_tags, drop_tags)
        to.rename_tags = self.pairs(rename_tags)
        to.rename_count = <uint32_t>len(rename_tags)
        to.tags = tag
        to.tag_count = <uint32_t>len(tags)
        to.bytes_max = bytes_max
        to.add = self.pairs(add)
        to.add_count = <uint32_t>len(add)
        for i, (key, templates, allow, otherwise, most) in enumerate(tags):
            self.fill_text(&tag[i].key, key)
            template = <shape_template_t *>self.room(len(templates), sizeof(shape_template_t))
            for k, (pattern, text) in enumerate(templates):
                template[k].pattern = self.pattern_of(pattern)
                self.fill_text(&template[k].text, text)
            tag[i].templates = template
            tag[i].template_count = <uint32_t>len(templates)
            self.fill_globs(&tag[i].allow, allow)
            self.fill_text(&tag[i].otherwise, otherwise)
            tag[i].bytes_max = most
        return 0

    cdef int fill_form(self, map_form_t *to, pieces) except -1:
        cdef map_piece_t *piece = <map_piece_t *>self.room(len(pieces), sizeof(map_piece_t))
        for i, (kind, number, joined, text) in enumerate(pieces):
            piece[i].kind = kind
            piece[i].number = number
            piece[i].joined = joined
            self.fill_text(&piece[i].text, text)
        to.pieces = piece
        to.count = <uint32_t>len(pieces)
        return 0

    cdef int fill_map(self, map_rule_t *to, rule) except -1:
        pattern, listeners, types, drop, join, measurement, field, tags = rule
        cdef map_tag_t *tag = <map_tag_t *>self.room(len(tags), sizeof(map_tag_t))
        to.pattern = self.pattern_of(pattern)
        to.listeners = listeners
        to.types = types
        to.drop = drop
        to.nodes = join is not None
        self.fill_text(&to.join, join or b"")
        self.fill_form(&to.measurement, measurement)
        self.fill_form(&to.field, field)
        for i, (key, value) in enumerate(tags):
            self.fill_text(&tag[i].key, key)
            self.fill_form(&tag[i].value, value)
        to.tags = tag
        to.tag_count = <uint32_t>len(tags)
        return 0

    cdef int fill_index(self, plan_index_t *to, list rules) except -1:
        """*rules*: for each rule the literals of which what it matches begins with one."""
        cdef dict known = {}
        for number, texts in enumerate(rules):
            for text in texts:
                known.setdefault(text, []).append(number)
        cdef list order = sorted(known)
        cdef list chain = []
        cdef plan_prefix_t *prefix = <plan_prefix_t *>self.room(len(order), sizeof(plan_prefix_t))
        cdef uint32_t *numbers
        cdef uint32_t at = 0
        numbers = <uint32_t *>self.room(sum(map(len, known.values())), sizeof(uint32_t))
        for i, text in enumerate(order):
            # Those that begin with the same bytes stand behind each other.
            while chain and not text.startswith(order[chain[len(chain) - 1]]):
                chain.pop()
            self.fill_text(&prefix[i].text, text)
            prefix[i].parent = chain[len(chain) - 1] if chain else PLAN_NONE
            prefix[i].first = at
            prefix[i].count = <uint32_t>len(known[text])
            for number in known[text]:
                numbers[at] = number
                at += 1
            chain.append(i)
        to.prefixes = prefix
        to.rules = numbers
        to.prefix_count = <uint32_t>len(order)
        to.words = <uint32_t>((len(rules) + 63) // 64)
        return 0

    cdef uint32_t words(self) noexcept:
        return max(self.rules.map.index.words, self.rules.shape.index.words)

    def apply(self, bytes series not None, *, bytes extra=b"", bytes name=None, uint32_t listener=0,
              uint8_t type=0):
        cdef head_t head
        cdef plan_work_t work
        cdef drop_t reason = DROP_NONE
        cdef c_bool mapped = False
        cdef bytes padded = series + bytes(PORT_PADDING), raw = (name or b"") + bytes(PORT_PADDING)
        cdef bytes tags = extra + bytes(PORT_PADDING)
        cdef list steps = []
        memset(&head, 0, sizeof(head))
        memset(&work, 0, sizeof(work))
        try:
            if not head_open(&head) or not plan_open(&work, self.words()):
                raise MemoryError()
            if not head_read(&head, padded, <uint32_t>len(series), NULL, 0):
                raise ValueError("not a head in canonical form")
            work.tell = tell_step
            work.tell_to = <void *>steps
            plan_begin(&work)
            if name is not None:
                reason = plan_map(&self.rules.map, &work, listener, type, raw, <uint32_t>len(name), &head,
                                  &mapped)
            if not plan_add_tags(&head, tags, <uint32_t>len(extra)):
                raise ValueError("not tags in canonical form")
            if reason == DROP_NONE:
                reason = plan_shape(&self.rules.shape, &work, &head)
            return {
                "head": head_text_of(&head),
                "field": head.field[:head.field_length] if head.field_length else None,
                "dropped": None if reason == DROP_NONE else REASONS[reason],
                "mapped": bool(mapped),
                "changed": bool(head.changed),
                "steps": steps,
                "runs": work.patterns.runs,
                "given_up": bool(work.patterns.given_up),
            }
        finally:
            plan_close(&work)
            head_close(&head)


cdef set beginnings(globs):
    """The literals of which every text begins with one that the list takes."""
    wanted, _ = globs
    return {(<Pattern>pattern).literal for pattern in wanted} or {b""}


cdef bytes head_text_of(const head_t *head):
    cdef uint8_t text[65536]
    return text[:head_write(head, text, HEAD_BYTES_MAX)]


cdef void tell_step(void *to, plan_stage_t stage, uint32_t rule, const head_t *head,
                    drop_t verdict) noexcept with gil:
    (<list>to).append(
        (
            "map" if stage == PLAN_MAP else "shape",
            rule,
            head_text_of(head),
            None if verdict == DROP_NONE else REASONS[verdict],
        )
    )
