cdef extern from "stats.h" nogil:
    ctypedef enum drop_t:
        DROP_NONE
        DROP_LINE_TOO_LONG
        DROP_MEASUREMENT
        DROP_TAG
        DROP_FIELD
        DROP_NUMBER
        DROP_TIMESTAMP
        DROP_TIMESTAMP_RANGE
        DROP_UTF8
        DROP_JSON
        DROP_MSGPACK
        DROP_OBJECT
