"""The advice as settings of seven clients, to paste. Option names were read in each client's own
source at the version named."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent

from bench.model import PreflightError
from bench.sizing.quantities import shown
from bench.sizing.timeouts import (
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVE_PROBES,
    Timeouts,
)

REAPER_S = 30  # bb8's, fixed
POOL_NEVERTHELESS = (
    "a pool only for what takes a connection to itself: blocking commands (BLPOP, XREAD BLOCK), "
    "WATCH … MULTI, large replies that would hold up the small"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client is to be set to: one pod's pool, and the connections it holds on average."""

    connections: int
    in_flight: int
    timeouts: Timeouts


@dataclass(frozen=True, slots=True)
class Client:
    """A client library; `version` is the one whose source was read."""

    name: str
    version: str
    multiplexed: bool
    settings: Callable[[Plan], str]
    notes: Callable[[Plan], list[str]]


def _redis_py(plan: Plan) -> str:
    t = plan.timeouts
    return f"""\
        pool = redis.BlockingConnectionPool(
            host="HOST",
            max_connections={plan.connections},
            timeout={t.acquire_timeout_s:g},
            socket_timeout={t.command_timeout_s:g},
            socket_connect_timeout={t.connect_timeout_s:g},
            health_check_interval={t.ping_after_idle_s},
            socket_keepalive=True,
            socket_keepalive_options={{
                socket.TCP_KEEPIDLE: {t.keepalive_idle_s},
                socket.TCP_KEEPINTVL: {t.keepalive_interval_s},
                socket.TCP_KEEPCNT: {t.keepalive_probes},
            }},
        )
        client = redis.Redis(connection_pool=pool)"""


def _redis_py_notes(plan: Plan) -> list[str]:
    t = plan.timeouts
    return [
        "one pool per process; redis.Redis() without a pool raises at once when 100 are in use",
        "looks at the socket on each borrow, and sends a PING after health_check_interval",
        "has no idle timeout or lifetime: bench.load.pool.Pool, a drop-in, has "
        f"max_idle_time={t.idle_timeout_s}, max_lifetime={t.lifetime_s}, lifetime_jitter",
    ]


def _jedis(plan: Plan) -> str:
    t = plan.timeouts
    return f"""\
        ConnectionPoolConfig pool = new ConnectionPoolConfig();
        pool.setMaxTotal({plan.connections});
        pool.setMaxIdle({plan.connections});
        pool.setMinIdle({plan.in_flight});
        pool.setMaxWait(Duration.ofMillis({_ms(t.acquire_timeout_s)}));
        pool.setTestOnBorrow(false);  // its test is a PING each time
        pool.setTestWhileIdle(true);
        pool.setTimeBetweenEvictionRuns(Duration.ofSeconds({t.sweep_interval_s}));
        pool.setMinEvictableIdleDuration(Duration.ofSeconds({t.idle_timeout_s}));
        JedisClientConfig config = DefaultJedisClientConfig.builder()
            .connectionTimeoutMillis({_ms(t.connect_timeout_s)})
            .socketTimeoutMillis({_ms(t.command_timeout_s)})
            .build();
        RedisClient client = RedisClient.builder().hostAndPort("HOST", 6379)
            .clientConfig(config).poolConfig(pool).build();"""


def _jedis_notes(plan: Plan) -> list[str]:
    t = plan.timeouts
    return [
        "its pool waits for ever and holds 8 unless told otherwise",
        f"keepalive is on with the kernel's times: set net.ipv4.tcp_keepalive_time="
        f"{t.keepalive_idle_s}, tcp_keepalive_intvl={t.keepalive_interval_s}, "
        f"tcp_keepalive_probes={t.keepalive_probes}",
        "no lifetime: the eviction of idle connections has to do",
        "where there is no RedisClient yet: new JedisPooled(hostAndPort, config, pool)",
    ]


def _lettuce(plan: Plan) -> str:
    t = plan.timeouts
    return f"""\
        client.setOptions(ClientOptions.builder()
            .socketOptions(SocketOptions.builder()
                .connectTimeout(Duration.ofMillis({_ms(t.connect_timeout_s)}))
                .keepAlive(SocketOptions.KeepAliveOptions.builder().enable()
                    .idle(Duration.ofSeconds({t.keepalive_idle_s}))
                    .interval(Duration.ofSeconds({t.keepalive_interval_s}))
                    .count({t.keepalive_probes}).build())
                .build())
            .timeoutOptions(TimeoutOptions.enabled(
                Duration.ofMillis({_ms(t.command_timeout_s)})))
            .build());
        // only where a pool is needed:
        GenericObjectPoolConfig<StatefulRedisConnection<String, String>> pool =
            new GenericObjectPoolConfig<>();
        pool.setMaxTotal({plan.connections});
        pool.setMaxIdle({plan.connections});
        pool.setMaxWait(Duration.ofMillis({_ms(t.acquire_timeout_s)}));
        pool.setTestOnBorrow(true);  // isOpen(), no round trip
        pool.setTimeBetweenEvictionRuns(Duration.ofSeconds({t.sweep_interval_s}));
        pool.setMinEvictableIdleDuration(Duration.ofSeconds({t.idle_timeout_s}));
        ConnectionPoolSupport.createGenericObjectPool(client::connect, pool);"""


def _lettuce_notes(plan: Plan) -> list[str]:
    return [
        f"multiplexed: one shared connection carries the {plan.in_flight} in flight; "
        + POOL_NEVERTHELESS,
        "keepalive times need epoll, io_uring, or NIO on Java 11 and later",
    ]


def _go_redis(plan: Plan) -> str:
    t = plan.timeouts
    return f"""\
        rdb := redis.NewClient(&redis.Options{{
            Addr:                  "HOST:6379",
            PoolSize:              {plan.connections},
            MaxActiveConns:        {plan.connections}, // or it opens more than PoolSize
            MinIdleConns:          {plan.in_flight},
            PoolTimeout:           {_ms(t.acquire_timeout_s)} * time.Millisecond,
            DialTimeout:           {_ms(t.connect_timeout_s)} * time.Millisecond,
            ReadTimeout:           {_ms(t.command_timeout_s)} * time.Millisecond,
            WriteTimeout:          {_ms(t.command_timeout_s)} * time.Millisecond,
            ConnMaxIdleTime:       {t.idle_timeout_s} * time.Second,
            ConnMaxLifetime:       {t.lifetime_s} * time.Second,
            ConnMaxLifetimeJitter: {t.lifetime_jitter_s} * time.Second,
        }})"""


def _go_redis_notes(plan: Plan) -> list[str]:
    t = plan.timeouts
    own = (KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES)
    wanted = (t.keepalive_idle_s, t.keepalive_interval_s, t.keepalive_probes)
    keepalive = f"its keepalive of {_slashed(own)} s fits"
    if wanted != own:
        keepalive = (
            f"its keepalive is {_slashed(own)} s: for {_slashed(wanted)} give a Dialer with "
            "net.KeepAliveConfig (which then does TLS too)"
        )
    return ["peeks at the socket on each borrow, but not with TLS; retries 3 times", keepalive]


def _node_redis(plan: Plan) -> str:
    t = plan.timeouts
    return f"""\
        const options = {{
          url: 'redis://HOST:6379',
          socket: {{
            connectTimeout: {_ms(t.connect_timeout_s)},
            keepAlive: true,
            keepAliveInitialDelay: {_ms(t.keepalive_idle_s)},
          }},
          pingInterval: {_ms(t.ping_after_idle_s)},
          commandOptions: {{ timeout: {_ms(t.command_timeout_s)} }},
        }};
        const client = createClient(options);
        // only where a pool is needed:
        const pool = createClientPool(options, {{
          minimum: {plan.in_flight},
          maximum: {plan.connections},
          acquireTimeout: {_ms(t.acquire_timeout_s)},
          cleanupDelay: {_ms(t.idle_timeout_s)},
        }});"""


def _node_redis_notes(plan: Plan) -> list[str]:
    return [
        f"multiplexed: one connection carries the {plan.in_flight} in flight; " + POOL_NEVERTHELESS,
        "no socketTimeout, which closes idle sockets; ioredis is multiplexed and has no pool",
    ]


def _stackexchange(plan: Plan) -> str:
    t = plan.timeouts
    return f"""\
        var redis = ConnectionMultiplexer.Connect(
            "HOST:6379,abortConnect=false,connectTimeout={_ms(t.connect_timeout_s)}," +
            "syncTimeout={_ms(t.command_timeout_s)},asyncTimeout={_ms(t.command_timeout_s)}," +
            "keepAlive={t.keepalive_idle_s},tcpKeepAlive=true");"""


def _stackexchange_notes(plan: Plan) -> list[str]:
    return [
        f"multiplexed: one multiplexer per process carries the {plan.in_flight} in flight and "
        "needs no pool; it has no blocking commands: several multiplexers only for large replies",
        "keepAlive sends a command, so that it counts for proxies and Redis' timeout too",
    ]


def _redis_rs(plan: Plan) -> str:
    t = plan.timeouts
    return f"""\
        let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs({t.keepalive_idle_s}))
            .with_interval(Duration::from_secs({t.keepalive_interval_s}))
            .with_retries({t.keepalive_probes});
        let info = "redis://HOST:6379".into_connection_info()?.set_tcp_settings(
            redis::io::tcp::TcpSettings::default().set_keepalive(keepalive));
        let pool = bb8::Pool::builder()
            .max_size({plan.connections})
            .min_idle({plan.in_flight})
            .connection_timeout(Duration::from_millis({_ms(t.acquire_timeout_s)}))
            .idle_timeout(Duration::from_secs({t.idle_timeout_s}))
            .max_lifetime(Duration::from_secs({t.lifetime_s}))
            .test_on_check_out(true)
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .build(redis::Client::open(info)?).await?;
        tokio::time::timeout(
            Duration::from_millis({_ms(t.command_timeout_s)}), command).await"""


def _redis_rs_notes(plan: Plan) -> list[str]:
    t = plan.timeouts
    late_s = t.idle_timeout_s + REAPER_S
    return [
        "test_on_check_out, its only check, is a PING on each borrow: its time is latency too",
        f"connection_timeout is the wait for the pool, connecting included; connecting alone has "
        f"1 s ({_ms(t.connect_timeout_s)} ms would take a manager with AsyncConnectionConfig)",
        "a MultiplexedConnection or ConnectionManager, cloned, needs no pool; " + POOL_NEVERTHELESS,
        f"its reaper runs every {REAPER_S} s: idle ones close within {late_s} s; no jitter",
    ]


CLIENTS = {
    client.name: client
    for client in (
        Client("redis-py", "8.1", False, _redis_py, _redis_py_notes),
        Client("jedis", "8", False, _jedis, _jedis_notes),
        Client("lettuce", "7", True, _lettuce, _lettuce_notes),
        Client("go-redis", "9", False, _go_redis, _go_redis_notes),
        Client("node-redis", "6", True, _node_redis, _node_redis_notes),
        Client("stackexchange", "3", True, _stackexchange, _stackexchange_notes),
        Client("redis-rs", "1, bb8 0.9", False, _redis_rs, _redis_rs_notes),
    )
}
ALIASES = {
    "python": "redis-py", "redispy": "redis-py", "go": "go-redis", "golang": "go-redis",
    "node": "node-redis", "nodejs": "node-redis", "javascript": "node-redis",
    "ioredis": "node-redis", "stackexchange.redis": "stackexchange", "dotnet": "stackexchange",
    ".net": "stackexchange", "csharp": "stackexchange", "c#": "stackexchange",
    "rust": "redis-rs", "bb8": "redis-rs",
}  # fmt: skip


def chosen(option: str, text: str) -> tuple[Client, ...]:
    """The clients named, with commas between, or all. Raises PreflightError for an unknown one."""
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if names == ["all"]:
        return tuple(CLIENTS.values())
    if not names:
        raise PreflightError(f"{option} names no client; there is: {', '.join(CLIENTS)}")
    return tuple(_known(option, name) for name in names)


def settings(client: Client, plan: Plan) -> str:
    """What to paste, as the client's own language has it."""
    return dedent(client.settings(plan))


def _known(option: str, name: str) -> Client:
    found = CLIENTS.get(ALIASES.get(name, name))
    if found is not None:
        return found
    close = difflib.get_close_matches(name, [*CLIENTS, *ALIASES], n=1)
    meant = f"did you mean “{close[0]}”?" if close else f"there is: {', '.join(CLIENTS)}"
    raise PreflightError(f"{option}: no client “{shown(name)}”; {meant}")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _slashed(values: tuple[int, ...]) -> str:
    return "/".join(map(str, values))
