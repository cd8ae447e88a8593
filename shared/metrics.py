"""Every metric that exists, declared once, with its words in Chinese and English (operations.md 3.1).

One registry per process; every sample carries the label `service`. Base units; instants are exported as timestamps (seconds since 1970)
and PromQL takes the age. Labels are bounded: never an id, a name or a number of a person.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from platform import python_version
from typing import Final, Generic, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

PREFIX: Final = "leifeng_"

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What `Metrics.render` writes, for the answer's header."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

K = TypeVar("K", bound=Counter | Gauge | Histogram)


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric as the documents and the alert rules know it; `name` is without the prefix."""

    name: str
    kind: str
    labels: tuple[str, ...]
    zh: str
    en: str


class _Declared(Generic[K]):
    """A metric as an attribute of `Metrics`: its own name, typed, made once for each registry."""

    def __init__(self, kind: type[K], labels: tuple[str, ...] = (), *, zh: str, en: str) -> None:
        self._kind = kind
        self._labels = labels
        self._zh = zh
        self._en = en

    def __set_name__(self, owner: type["Metrics"], name: str) -> None:
        self._name = name

    def __get__(self, holder: "Metrics", owner: type["Metrics"]) -> K:
        return cast("K", holder.made[self._name])

    @property
    def definition(self) -> Definition:
        return Definition(self._name, self._kind.__name__.lower(), self._labels, self._zh, self._en)

    def make(self, registry: CollectorRegistry) -> K:
        name, text = PREFIX + self._name, f"{self._zh} / {self._en}"
        if issubclass(self._kind, Histogram):
            return cast("K", self._kind(name, text, self._labels, registry=registry, buckets=_SECONDS))
        return self._kind(name, text, self._labels, registry=registry)


class Metrics:
    """All metrics of one process of one service. Attributes are prometheus_client metrics; labels go in the order written here."""

    command_outcomes_total = _Declared(
        Counter,
        ("command", "outcome"),
        zh="命令结果: accepted 已接受, refused 被拒绝, duplicate 重复, conflict 冲突, unavailable 不可用",
        en="Commands by outcome: accepted, refused, duplicate, conflict, unavailable",
    )
    command_duration_seconds = _Declared(
        Histogram, ("command",), zh="从收到命令到答复的时间", en="Time from a command's arrival to its answer"
    )
    http_request_duration_seconds = _Declared(
        Histogram, ("route", "method", "code_class"), zh="HTTP 请求用时", en="Time of HTTP requests by route template"
    )
    denials_total = _Declared(
        Counter, ("code",), zh="未获准的请求, 按问题代码 (401 与 403)", en="Requests that were denied, by problem code (401 and 403)"
    )
    http_requests_in_flight = _Declared(Gauge, zh="正在处理的 HTTP 请求", en="HTTP requests being served")
    event_store_append_duration_seconds = _Declared(
        Histogram, ("category",), zh="写入事件库用时, 含等待组提交", en="Time of an append, waiting for the group commit included"
    )
    event_store_conflicts_total = _Declared(
        Counter, ("category",), zh="版本冲突次数", en="Appends that met another version of their stream"
    )
    events_appended_total = _Declared(Counter, ("type",), zh="写入的事件", en="Events appended by type")
    log_head_position = _Declared(Gauge, zh="日志最新位置", en="Last position given out in the service's log")
    log_published_position = _Declared(Gauge, zh="已发布到 Kafka 的位置", en="Last position published to Kafka")
    relay_backlog_events = _Declared(Gauge, zh="尚未发布的事件", en="Events of the log not yet published")
    relay_oldest_unpublished_timestamp_seconds = _Declared(
        Gauge, zh="最早未发布事件的记录时间, 没有则为 0", en="When the oldest unpublished event was recorded, 0 when there is none"
    )
    relay_published_total = _Declared(Counter, zh="已发布的事件", en="Events published for the first time")
    relay_republished_total = _Declared(Counter, zh="重新发布的事件", en="Events published again after a hole or a lost tail")
    relay_fenced_total = _Declared(Counter, zh="封印时发现另有中继的次数", en="Seals that another relay was found to have made")
    topic_findings_total = _Declared(
        Counter,
        ("cause",),
        zh="主题与日志不符: hole 缺口, lost_tail 尾部丢失, changed 被改动, foreign 外来记录, jump 偏移跳变, rewritten 被重写, ahead 超前, "
        "diverged 分叉",
        en="What the topic has that the log has not, or the reverse: hole, lost_tail, changed, foreign, jump, rewritten, ahead, diverged",
    )
    log_recovering = _Declared(
        Gauge, zh="日志是否等待 recover (1 或 0)", en="Whether the log waits for recover: Kafka holds what it does not (1 or 0)"
    )
    log_read_only = _Declared(
        Gauge, zh="日志是否由运维设为只读 (1 或 0)", en="Whether an operator has closed the log: no command is accepted (1 or 0)"
    )
    producer_recreated_total = _Declared(Counter, ("cause",), zh="重建 Kafka 生产者的次数", en="Kafka producers made anew, by cause")
    worker_role_held = _Declared(
        Gauge, ("role",), zh="本进程是否担任该角色 (1 或 0)", en="Whether this process holds the worker role (1 or 0)"
    )
    worker_role_paused = _Declared(
        Gauge, ("role",), zh="该角色是否被运维暂停 (1 或 0)", en="Whether an operator has paused the worker role (1 or 0)"
    )
    role_changes_total = _Declared(Counter, ("role", "cause"), zh="角色得失次数", en="Worker roles taken and lost")
    consumer_last_applied_timestamp_seconds = _Declared(
        Gauge, ("consumer", "source"), zh="最近处理的事件的业务时间", en="Business time of the event applied last"
    )
    consumer_last_applied_position = _Declared(
        Gauge, ("consumer", "source"), zh="已处理到的位置", en="Position the consumer has applied of a source log"
    )
    consumer_heartbeat_timestamp_seconds = _Declared(
        Gauge,
        ("consumer", "source"),
        zh="源日志心跳时间: 已全部处理的那次",
        en="Time of the newest heads record that the consumer has caught up with",
    )
    consumer_lag_events = _Declared(
        Gauge,
        ("consumer", "source"),
        zh="落后源日志的事件数",
        en="Events between the source's head (from its heads topic) and the consumer",
    )
    consumer_source_contradicts = _Declared(
        Gauge,
        ("consumer", "source"),
        zh="源日志自述与已读的不符: 另一日志, 同一位置另一内容, 或更早结束 (1 或 0; 消息在途时可短暂为 1)",
        en="Whether a source log says of itself what cannot be of what was read: another log id, another hash at the same position, an end "
        "before it (1 or 0; for seconds also while a word is under way)",
    )
    consumer_events_total = _Declared(
        Counter,
        ("consumer", "result"),
        zh="消费结果: applied 已处理, repeated 重复, ignored 不订阅, parked 搁置, discarded 已弃置, fenced 被隔离, gap 缺口",
        en="Events met by result: applied, repeated, ignored, parked, discarded, fenced, gap",
    )
    parked_keys = _Declared(
        Gauge, ("consumer", "reason"), zh="被搁置的键", en="Keys that are blocked because an event could not be applied"
    )
    parked_messages = _Declared(Gauge, ("consumer", "reason"), zh="被搁置的事件", en="Events parked behind blocked keys")
    parked_oldest_timestamp_seconds = _Declared(
        Gauge, ("consumer", "reason"), zh="最早搁置的时间", en="When the oldest parked event was parked"
    )
    discarded_messages = _Declared(
        Gauge, ("consumer",), zh="经两人批准弃置的事件", en="Events that two persons gave up: the consumer passes over them"
    )
    consumer_stopped = _Declared(
        Gauge,
        ("consumer", "source", "reason"),
        zh="断路器已停止的消费者 (1)",
        en="Consumers that stand still because they would park too many keys for one reason (1)",
    )
    projection_definition_changed = _Declared(
        Gauge,
        zh="读模型由另一版定义建成, 须重建 (1 或 0)",
        en="Whether the live read models were built by other definitions: they stand still until they are rebuilt (1 or 0)",
    )
    projection_rebuild_progress_ratio = _Declared(
        Gauge, ("schema",), zh="读模型重建进度", en="Share of the logs that the read models under construction have applied"
    )
    deadlines_due = _Declared(Gauge, zh="已到期未处理的期限", en="Deadlines that are due and not yet fired")
    erasures_open = _Declared(
        Gauge,
        ("state",),
        zh="未完成的个人信息删除: requested 待第二人批准, erased 已批准, 待各服务回执",
        en="Erasures under way: requested (waits for a second person), erased (waits for the receipts of all services)",
    )
    erasure_oldest_timestamp_seconds = _Declared(
        Gauge, ("state",), zh="最早的未完成删除自何时起, 没有则为 0", en="Since when the oldest of them has waited, 0 when there is none"
    )
    ledger_imbalance_minutes = _Declared(Gauge, zh="时长账不平的分钟数, 必须为 0", en="Sum of all ledger postings, which must be 0")
    reconciliation_difference = _Declared(
        Gauge,
        ("figure", "source"),
        zh="与源服务核对的差额, 必须为 0; 仅构成不同时为 1",
        en="How far what this service counted of another's log is from the owner's count at the same position, must be 0; 1 where only the "
        "make-up differs",
    )
    reconciliation_timestamp_seconds = _Declared(
        Gauge,
        ("figure", "source"),
        zh="最近一次在同一位置核对的时间, 尚未核对则为进程启动时间",
        en="When the two were last compared at the same position; before that, when the process started",
    )
    retries_total = _Declared(Counter, ("cause",), zh="暂时性错误后的重试", en="Retries after a transient error, by cause")
    db_pool_connections = _Declared(Gauge, ("pool", "state"), zh="数据库连接数", en="Connections of a pool by state (open, idle)")
    db_pool_wait_seconds = _Declared(
        Histogram, ("pool",), zh="等待数据库连接的时间", en="Time until a connection of a pool was given out, a new one's making included"
    )
    db_errors_total = _Declared(Counter, ("pool", "cause"), zh="数据库错误", en="Database errors by pool and cause")
    key_unwrap_failures_total = _Declared(
        Counter, zh="打不开的个人密钥次数", en="Persons' keys that did not open: the wrong key file, or a damaged row"
    )
    build_info = _Declared(Gauge, ("version", "python"), zh="程序版本", en="Version of the program, always 1")

    def __init__(self, service: str, version: str) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        self.made: dict[str, Counter | Gauge | Histogram] = {
            name: declared.make(self._registry) for name, declared in vars(Metrics).items() if isinstance(declared, _Declared)
        }
        self._of: dict[tuple[Counter | Gauge | Histogram, tuple[str, ...]], Counter | Gauge | Histogram] = {}
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self.build_info.labels(version, python_version()).set(1)

    def of(self, metric: K, *labels: str) -> K:
        """`metric.labels(*labels)`, found again for a fraction of what that costs: for what is counted with every request."""
        found = self._of.get((metric, labels))
        if found is None:
            found = self._of[metric, labels] = metric.labels(*labels)
        return cast("K", found)

    def render(self) -> bytes:
        """The text that Prometheus scrapes (`CONTENT_TYPE`)."""
        return generate_latest(cast("CollectorRegistry", _WithService(self._registry, self._service)))


class _WithService(Collector):
    """Puts the label `service` on every sample, those of the process included, so that no caller has to name it."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        self._registry = registry
        self._service = service

    def collect(self) -> Iterator[Family]:
        for family in self._registry.collect():
            family.samples = [
                sample._replace(labels={"service": self._service, **sample.labels})
                for sample in family.samples
                if not sample.name.endswith("_created")  # The process start says as much, for half the size of the page.
            ]
            yield family


DEFINITIONS: Final[tuple[Definition, ...]] = tuple(
    declared.definition for declared in vars(Metrics).values() if isinstance(declared, _Declared)
)
"""The metrics as data, in the order of this file."""
