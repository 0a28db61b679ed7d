"""The data plane of Penstock, compiled: it receives, reads and keeps metrics, and never decides.

The pieces stand in the order in which a metric meets them on the way out of this module: memory first
(ring), then what writes it (reader, lane). Types and contracts are in agent/_core.pyi.
"""

from os import environ as os_environ, fsencode as os_fsencode, lstat as os_lstat, unlink as os_unlink
from re import compile as re_compile
from stat import S_ISREG as stat_S_ISREG
from threading import Lock

from agent.errors import RingError

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals, PyErr_Clear, PyErr_Occurred, PyErr_SetFromErrno
from cpython.ref cimport PyObject
from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strerror

from c_aggregate cimport *
from c_book cimport *
from c_feed cimport *
from c_formats cimport *
from c_guard cimport *
from c_lane cimport *
from c_line cimport *
from c_point cimport *
from c_objects cimport *
from c_pattern cimport *
from c_plan cimport *
from c_ring cimport *
from c_source cimport *
from c_stats cimport *
from c_types cimport *
from c_watch cimport *

include "alloc.pyx"
include "pattern.pyx"
include "waker.pyx"
include "delays.pyx"
include "ring.pyx"
include "rules.pyx"
include "guard.pyx"
include "reader.pyx"
include "formats.pyx"
include "samples.pyx"
include "book.pyx"
include "types.pyx"
include "aggregate.pyx"
include "burst.pyx"
include "source.pyx"
include "watch.pyx"
include "lane.pyx"
include "stream.pyx"
include "receiver.pyx"
include "feed.pyx"
include "objects.pyx"
