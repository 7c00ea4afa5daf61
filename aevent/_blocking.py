"""C extensions that are known to block their thread, and what helps: one list, for `doctor()`.

Not a matter of patching: what these call, they call in C.
"""

from __future__ import annotations

from typing import NamedTuple


class Blocking(NamedTuple):
    """A C extension, known by a module that is loaded with it."""

    module: str
    package: str
    """The name under which it is used; a rule of `offloaded` for it counts as the remedy."""
    blocks: str
    """What waits."""
    remedy: str


_OFFLOAD = "aevent.offload(), or aevent.offloaded() for the functions that wait"

KNOWN = (
    Blocking(
        "_sqlite3",
        "sqlite3",
        "queries and locks",
        "derived classes with offloaded methods, see docs/offload.md",
    ),
    Blocking("apsw", "apsw", "queries and locks", _OFFLOAD),
    Blocking("_duckdb", "duckdb", "queries", _OFFLOAD),
    Blocking(
        "MySQLdb._mysql",
        "MySQLdb",
        "connecting and queries",
        "pymysql, which is Python; or aevent.offloaded('MySQLdb.connections.Connection.query')",
    ),
    Blocking(
        "_mysql_connector",
        "mysql",
        "connecting and queries",
        "mysql.connector.connect(…, use_pure=True)",
    ),
    Blocking("cx_Oracle", "cx_Oracle", "connecting and queries", "oracledb in its thin mode"),
    Blocking(
        "oracledb.thick_impl",
        "oracledb",
        "connecting and queries, in the thick mode",
        "the thin mode: do not call oracledb.init_oracle_client()",
    ),
    Blocking("pymssql._pymssql", "pymssql", "connecting and queries", _OFFLOAD),
    Blocking("pyodbc", "pyodbc", "connecting and queries", _OFFLOAD),
    Blocking("ibm_db", "ibm_db", "connecting and queries", _OFFLOAD),
    Blocking("fdb", "fdb", "queries", _OFFLOAD),
    Blocking("_pylibmc", "pylibmc", "requests", "pymemcache, which is Python"),
    Blocking("confluent_kafka.cimpl", "confluent_kafka", "poll() and flush()", _OFFLOAD),
    Blocking("rados", "rados", "requests", _OFFLOAD),
    Blocking(
        "grpc._cython.cygrpc",
        "grpc",
        "calls and waits for them",
        "aevent.offload() for each call; or grpc.aio in a task of asyncio",
    ),
    Blocking("pycurl", "pycurl", "perform()", "aevent.offload(curl.perform)"),
    Blocking(
        "zmq.backend.cython._zmq",
        "zmq",
        "send(), recv() and poll()",
        "wait for the socket's FD with select, then call with zmq.NOBLOCK; or aevent.offload()",
    ),
    Blocking("_ldap", "ldap", "operations and result()", _OFFLOAD),
    Blocking("kerberos", "kerberos", "requests to the key server", _OFFLOAD),
    Blocking("gssapi.raw.sec_contexts", "gssapi", "requests to the key server", _OFFLOAD),
    Blocking(
        "_curses",
        "curses",
        "getch() and its like",
        "select() on standard input first, and nodelay(True)",
    ),
    Blocking(
        "readline",
        "readline",
        "input() at a terminal",
        "aevent.offload(input), if others shall run",
    ),
    Blocking("_tkinter", "tkinter", "mainloop()", "update() in a loop, with time.sleep()"),
    Blocking("_gdbm", "dbm", "opening what is locked", _OFFLOAD),
)


def loaded(modules: dict[str, object]) -> list[Blocking]:
    """Those of `modules`, which is `sys.modules`."""
    return [known for known in KNOWN if modules.get(known.module) is not None]
