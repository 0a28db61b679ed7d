# The rules in the form that writers read, and what each of them decides by.

# Of all hashes that must not be chosen by others; one for all guards, as tags are hashed before one is known.
cdef mix_key_t process_key
if not mix_key_draw(&process_key):
    raise OSError("the system has no random numbers to give")


cdef bytes padded(bytes text):
    return text + bytes(PORT_PADDING)


@cython.final
cdef class Plan:
    cdef plan_routes_t routes
    cdef list kept              # what the structs point at: patterns and keys
    cdef list blocks            # memory of lists, by address; owned

    def __cinit__(self, outputs):
        cdef plan_output_t *output
        cdef plan_tag_t *tag
        cdef list groups = []
        self.kept = []
        self.blocks = []
        if len(outputs) > <int>PLAN_OUTPUTS:
            raise ValueError(f"{len(outputs)} outputs; a plan has at most {PLAN_OUTPUTS}")
        self.routes.count = <uint32_t>len(outputs)
        for i, (name, group, measurements, tags) in enumerate(outputs):
            output = &self.routes.outputs[i]
            text = name.encode()
            output.name_hash = mix_bytes(&mix_fixed, 0, self.keep(padded(text)), <uint32_t>len(text))
            output.group = PLAN_NO_GROUP
            output.by_measurement = group is not None and group[0] == "measurement"
            if group is not None:
                if group not in groups:
                    groups.append(group)
                output.group = <int32_t>groups.index(group)
            output.measurements = self.list_of(measurements)
            tag = <plan_tag_t *>self.block(len(tags) * sizeof(plan_tag_t))
            output.tags = tag
            output.tag_count = <uint32_t>len(tags)
            for key, values in tags.items():
                text = key.encode()
                tag.key = self.keep(padded(text))
                tag.key_length = <uint32_t>len(text)
                tag.values = self.list_of(values)
                tag += 1

    def __dealloc__(self):
        for address in self.blocks or ():
            free(<void *><size_t>address)

    cdef const uint8_t *keep(self, bytes text):
        self.kept.append(text)
        return text

    cdef void *block(self, size_t size) except NULL:
        cdef void *memory = malloc(size + 1)
        if memory == NULL:
            raise MemoryError()
        self.blocks.append(<size_t>memory)
        return memory

    cdef pattern_list_t list_of(self, globs) except *:
        """*globs*: wanted and unwanted patterns."""
        cdef pattern_list_t found
        cdef const pattern_t **patterns
        cdef Pattern one
        wanted, unwanted = globs
        patterns = <const pattern_t **>self.block((len(wanted) + len(unwanted)) * sizeof(void *))
        found.patterns = patterns
        found.wanted = <uint32_t>len(wanted)
        found.unwanted = <uint32_t>len(unwanted)
        for i, one in enumerate((*wanted, *unwanted)):
            self.kept.append(one)
            patterns[i] = &one.pattern
        return found

    @property
    def outputs(self):
        return self.routes.count


@cython.final
cdef class Guard:
    cdef guard_t *guard         # owned
    cdef Plan plan              # keeps alive what the guard reads, as the next
    cdef Book book
    cdef Rules rules
    cdef Types types

    def __cinit__(self, Plan plan not None, Book book=None, uint64_t max_series=0, Rules rules=None,
                  Types types=None, bint coerce=True, bint rename=False, bint collisions=False):
        cdef types_rules_t kept_by
        self.plan = plan
        self.book = book
        self.types = types
        self.guard = <guard_t *>alloc_aligned(sizeof(guard_t))
        cdef book_t *counts = NULL if book is None else book.book
        if not guard_open(self.guard, &plan.routes, counts, max_series, &process_key):
            raise MemoryError()
        if collisions:
            guard_mark_collisions(self.guard)
        self.rules = rules
        if rules is not None and not guard_set_rules(self.guard, &rules.rules):
            raise MemoryError()
        kept_by.coerce = coerce
        kept_by.rename = rename
        if types is not None and not guard_keep_types(self.guard, types.types, kept_by):
            raise MemoryError()

    def take_rejected(self):
        cdef type_kind_t kept, came
        cdef uint32_t length
        cdef bytes line
        cdef list found = []
        if self.types is None:
            return found
        while len(found) < 10000:
            length = refused_next(&self.guard.refused, &kept, &came)
            if length == 0:
                break
            line = PyBytes_FromStringAndSize(NULL, length)
            refused_take(&self.guard.refused, <uint8_t *><char *>line, length)
            found.append((line, TYPE_NAMES[<int>kept], TYPE_NAMES[<int>came]))
        return found

    def __dealloc__(self):
        if self.guard != NULL:
            guard_close(self.guard)
            free(self.guard)

    def stats(self):
        return {
            "unknown": counter_get(&self.guard.unknown),
            "given_up": counter_get(&self.guard.given_up),
            "heads": counter_get(&self.guard.heads),
            "bytes": counter_get(&self.guard.bytes),
            "rejected_unsaved": counter_get(&self.guard.refused.unsaved),
        }


cdef guard_t *guard_of(Guard guard, uint64_t rings) except? NULL:
    """What a writer of so many rings decides by; NULL for nothing."""
    if guard is None:
        return NULL
    if guard.plan.routes.count != rings:
        raise ValueError(f"a guard for {guard.plan.routes.count} rings, and there are {rings}")
    return guard.guard
