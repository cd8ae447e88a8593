"""What of events stands on the page, and what the fields are called in Chinese; their English names are words already."""

from collections.abc import Mapping
from typing import Final

OPEN_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "programme": frozenset(
        {
            *("programme_id", "year", "issued_on", "starts_on", "ends_on", "carriers", "target_groups", "occasions", "month", "day"),
            *("unit_id", "code", "kind", "parent_code", "valid_from", "planned_activities_per_month"),
        }
    ),
    "activity": frozenset(
        {
            *("activity_id", "unit_code", "carrier", "target_group", "occasion", "starts_at", "ends_at", "has_risk"),
            *("positions", "position", "code", "capacity", "wait_list_max"),
        }
    ),
    "hours_policy": frozenset(
        {
            *("version", "effective_from", "daily_cap_minutes", "pairs_per_activity_day_max", "check_in_early_minutes"),
            "missed_check_out_after_minutes",
        }
    ),
    "account": frozenset(
        {
            *("entry_id", "activity_id", "unit_code", "hour_class", "served_on", "minutes", "credited_minutes", "over_cap_minutes"),
            *("old_credited_minutes", "old_over_cap_minutes", "postings", "account", "policy_version"),
        }
    ),
    "star_policy": frozenset({"version", "effective_from", "thresholds_minutes", "reapply_after_revocation"}),
    "star": frozenset({"unit_code", "stars", "confirmed_minutes", "threshold_minutes", "policy_version", "hours_position"}),
}
"""What anybody may see of the events of a stream, by its category: an allow-list, so what is new stays hidden until it is put here.

Streams of other categories are about one person, and stand on no page. Of an account anybody sees the days and minutes that count, not
when its person came and went, who recorded it or why it was changed; of an activity its seats, not who sits on them.
"""

OPEN_EVENTS: Final[Mapping[str, frozenset[str]]] = {
    "star": frozenset({"recognition.star_granted", "recognition.star_declined", "recognition.star_withdrawn", "recognition.star_revoked"}),
}
"""Of a category that is named here, only events of these types stand on a page: that somebody wanted a star taken is not everybody's.

That it was taken is said, without why and by whom, for else the page would go on showing it as granted.
"""

DAY_ONLY: Final = frozenset({"account"})
"""Categories whose events are dated by the civil day: minutes are proposed in the moment in which somebody leaves."""

FIELDS_ZH: Final[Mapping[str, str]] = {
    "activity_id": "活动",
    "aliases": "别名",
    "approved_by": "批准人",
    "approver_id": "审核人",
    "at": "时间",
    "capacity": "名额",
    "carrier": "活动载体",
    "carriers": "活动载体",
    "check_in_early_minutes": "可提前签到",
    "check_out_by": "签退期限",
    "checked_in_at": "签到时间",
    "checked_in_by": "签到记录人",
    "clashes_with": "冲突的活动",
    "code": "代码",
    "compared_with": "对比年度",
    "confirmed_minutes": "已认定时长",
    "consent": "同意事项",
    "counts_from": "计时起点",
    "credited_minutes": "计入时长",
    "daily_cap_minutes": "每日上限",
    "declined_by": "决定人",
    "device_id": "设备",
    "difference": "变化",
    "document_reference": "文号",
    "effective_from": "生效日期",
    "ends_at": "结束",
    "ends_on": "结束日期",
    "entry_id": "时长条目",
    "erased_position": "删除的批准位置",
    "expires_at": "确认截止",
    "file_digest": "文件摘要",
    "guardian_name": "监护人姓名",
    "has_risk": "是否有风险",
    "hour_class": "时长类别",
    "hours_position": "时长日志位置",
    "id_number": "证件号码",
    "insurance": "保险",
    "is_minor": "注册时未成年",
    "is_place_known": "身份证地区可识别",
    "issued_on": "发文日期",
    "issuing_body": "发布机构",
    "key_digest": "密钥摘要",
    "kind": "类别",
    "minutes": "时长",
    "missed_check_out_after_minutes": "签退宽限",
    "name": "名称",
    "networks": "来源网络",
    "not_after": "不晚于",
    "not_before": "不早于",
    "number": "志愿者编号",
    "occasion": "时间节点",
    "occasions": "时间节点",
    "old_credited_minutes": "原计入时长",
    "old_ends_at": "原结束",
    "old_over_cap_minutes": "原超限时长",
    "old_starts_at": "原开始",
    "over_cap_minutes": "超限时长",
    "pair": "第几次",
    "pairs_per_activity_day_max": "每日签到次数上限",
    "parent_code": "上级单位",
    "person_id": "人员",
    "phone": "电话",
    "place": "地点",
    "planned_activities_per_month": "每月计划活动",
    "policy_version": "规则版本",
    "position": "岗位",
    "positions": "岗位",
    "postings": "分录",
    "programme": "方案",
    "programme_id": "方案",
    "proposal_id": "提交标识",
    "proposed_by": "提交人",
    "purpose": "宗旨",
    "reapply_after_revocation": "撤销后可再申请",
    "reason": "原因",
    "reason_code": "原因",
    "receipt_position": "回执位置",
    "recorder_id": "记录人",
    "requested_by": "申请人",
    "requester_id": "提出人",
    "result": "成果",
    "risk_note": "风险说明",
    "role": "角色",
    "served_on": "服务日期",
    "service": "服务",
    "sign_in_destroyed": "登录信息已销毁",
    "skills": "服务技能",
    "slot_starts_at": "预定开始",
    "stars": "星级",
    "starts_at": "开始",
    "starts_on": "开始日期",
    "target_group": "重点群体",
    "target_groups": "重点群体",
    "text_version": "文本版本",
    "theme": "活动主题",
    "threshold_minutes": "所需时长",
    "thresholds_minutes": "各星所需时长",
    "title": "名称",
    "unit": "单位",
    "unit_code": "单位",
    "unit_id": "单位标识",
    "units": "单位数",
    "units_gone": "不再列出的单位",
    "valid_from": "启用日期",
    "version": "版本",
    "volunteer_id": "志愿者",
    "wait_list_max": "候补上限",
    "words_changed": "改动内容",
    "words_gone": "不再列出的内容",
    "words_new": "新增内容",
    "year": "年度",
}

CODES: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "account": {
        "served": ("服务对方", "served"),
        "timed": ("系统计时", "timed"),
        "backEntered": ("补录", "back-entered"),
        "transferred": ("转入", "transferred"),
        "over_cap": ("超出每日上限", "over the daily cap"),
    },
    "consent": {"register": ("注册", "to be registered"), "be_named": ("公开姓名", "to be named in public")},
    "hour_class": {
        "timed": ("系统计时", "timed"),
        "backEntered": ("补录", "back-entered"),
        "transferred": ("转入", "transferred"),
    },
    "reason": {
        "volunteer_withdrew": ("本人取消", "the volunteer withdrew"),
        "left_programme": ("已退出", "left the programme"),
        "organiser_removed": ("组织者取消", "removed by the organiser"),
        "consent_withdrawn": ("已撤回同意", "consent withdrawn"),
    },
}
"""What codes of a field are called, where no list of the service shows them."""
