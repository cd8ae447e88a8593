-- What admins read. Every column says what it is, in Chinese and English; minutes are integers.

CREATE VIEW api.balances WITH (security_barrier) AS
SELECT part.volunteer_id, part.year, part.unit_code, coalesce(unit.name, part.unit_code) AS unit_name, part.account_id,
       sum(timed_minutes)::bigint AS timed_minutes,
       sum(back_entered_minutes)::bigint AS back_entered_minutes,
       sum(transferred_minutes)::bigint AS transferred_minutes,
       sum(over_cap_minutes)::bigint AS over_cap_minutes,
       sum(pending_minutes)::bigint AS pending_minutes,
       coalesce((SELECT whole.minutes FROM joined.account_minutes AS whole
                 WHERE whole.volunteer_id = part.volunteer_id AND whole.year = part.year), 0) AS account_minutes
FROM (SELECT volunteer_id, year, unit_code, account_id, timed_minutes, back_entered_minutes, transferred_minutes, over_cap_minutes,
             0 AS pending_minutes
      FROM balances
      UNION ALL
      SELECT volunteer_id, extract(year FROM served_on)::integer, unit_code, account_id, 0, 0, 0, 0, minutes
      FROM entries WHERE state = 'pending') AS part
LEFT JOIN units AS unit ON unit.code = part.unit_code
GROUP BY part.volunteer_id, part.year, part.unit_code, unit.name, part.account_id;

COMMENT ON VIEW api.balances IS '时长余额: 每人每年在每个单位的时长 / Balances: what each person has, by year and unit';
COMMENT ON COLUMN api.balances.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.balances.year IS '账户年度, 按服务日期 / Civil year of the account, by the day served';
COMMENT ON COLUMN api.balances.unit_code IS '举办活动的单位 / The unit whose activity it was';
COMMENT ON COLUMN api.balances.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.balances.account_id IS '账户, 即日志中的流 / The account, a stream of the log';
COMMENT ON COLUMN api.balances.timed_minutes IS '系统计时的分钟数 / Minutes timed by check-in and check-out';
COMMENT ON COLUMN api.balances.back_entered_minutes IS '补录的分钟数 / Minutes entered afterwards';
COMMENT ON COLUMN api.balances.transferred_minutes IS '转入的分钟数 / Minutes transferred from elsewhere';
COMMENT ON COLUMN api.balances.over_cap_minutes IS '超出每日上限、不计入的分钟数 / Minutes above the daily cap: shown, not counted, not lost';
COMMENT ON COLUMN api.balances.pending_minutes IS '待认定的分钟数 / Minutes that wait for approval';
COMMENT ON COLUMN api.balances.account_minutes IS '该人该年在各单位计入的合计, 不含超限与待认定 / All that counts in the person''s account of the year, over all units, without what is over the cap or waits';

CREATE VIEW api.confirm_queue AS
SELECT entry.unit_code, coalesce(unit.name, entry.unit_code) AS unit_name, entry.proposed_at, entry.served_on, entry.volunteer_id,
       coalesce(activity.title, '…' || right(entry.activity_id::text, 8)) AS activity_title, entry.activity_id,
       entry.starts_at, entry.ends_at, entry.minutes, entry.minutes = 0 AS check_out_missed, entry.recorder_id, entry.entry_id,
       entry.account_id
FROM entries AS entry LEFT JOIN units AS unit ON unit.code = entry.unit_code LEFT JOIN activities AS activity USING (activity_id)
WHERE entry.state = 'pending';

COMMENT ON VIEW api.confirm_queue IS '待认定: 等待非记录人、非本人者认定的时长 / Confirm queue: entries that wait for somebody who is neither recorder nor subject';
COMMENT ON COLUMN api.confirm_queue.unit_code IS '举办活动的单位 / The unit whose activity it was';
COMMENT ON COLUMN api.confirm_queue.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.confirm_queue.proposed_at IS '提请时间 / Since when it waits';
COMMENT ON COLUMN api.confirm_queue.served_on IS '服务日期 (北京时间) / The civil day served, Asia/Shanghai';
COMMENT ON COLUMN api.confirm_queue.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.confirm_queue.activity_title IS '活动名称 / Title of the activity';
COMMENT ON COLUMN api.confirm_queue.activity_id IS '活动 / The activity';
COMMENT ON COLUMN api.confirm_queue.starts_at IS '计时开始 / Where the minutes begin';
COMMENT ON COLUMN api.confirm_queue.ends_at IS '计时结束 / Where they end';
COMMENT ON COLUMN api.confirm_queue.minutes IS '分钟数, 向下取整 / Whole minutes, rounded down';
COMMENT ON COLUMN api.confirm_queue.check_out_missed IS '未签退, 须先更正 / The check-out was missed: it needs a correction, not a confirmation';
COMMENT ON COLUMN api.confirm_queue.recorder_id IS '签退记录人; 未签退者为签到记录人 / Who recorded the check-out, or the check-in where that was missed';
COMMENT ON COLUMN api.confirm_queue.entry_id IS '时长条目 / The entry';
COMMENT ON COLUMN api.confirm_queue.account_id IS '账户, 即日志中的流 / The account, a stream of the log';

CREATE VIEW api.entries AS
SELECT entry.entry_id, entry.account_id, entry.volunteer_id, entry.unit_code, coalesce(unit.name, entry.unit_code) AS unit_name,
       coalesce(activity.title, '…' || right(entry.activity_id::text, 8)) AS activity_title, entry.activity_id,
       entry.hour_class, entry.served_on, entry.starts_at, entry.ends_at, entry.minutes, entry.state, entry.credited_minutes, entry.over_cap_minutes,
       entry.recorder_id, entry.proposed_at
FROM entries AS entry LEFT JOIN units AS unit ON unit.code = entry.unit_code LEFT JOIN activities AS activity USING (activity_id);

COMMENT ON VIEW api.entries IS '时长条目: 每条现状 / Entries: each as it stands now';
COMMENT ON COLUMN api.entries.entry_id IS '时长条目 / The entry';
COMMENT ON COLUMN api.entries.account_id IS '账户, 即日志中的流 / The account, a stream of the log';
COMMENT ON COLUMN api.entries.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.entries.unit_code IS '举办活动的单位 / The unit whose activity it was';
COMMENT ON COLUMN api.entries.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.entries.activity_title IS '活动名称 / Title of the activity';
COMMENT ON COLUMN api.entries.activity_id IS '活动 / The activity';
COMMENT ON COLUMN api.entries.hour_class IS '时长类别: timed 系统计时, backEntered 补录, transferred 转入 / Hour class';
COMMENT ON COLUMN api.entries.served_on IS '服务日期 (北京时间) / The civil day served, Asia/Shanghai';
COMMENT ON COLUMN api.entries.starts_at IS '计时开始 / Where the minutes begin';
COMMENT ON COLUMN api.entries.ends_at IS '计时结束 / Where they end';
COMMENT ON COLUMN api.entries.minutes IS '分钟数 / Whole minutes of the interval';
COMMENT ON COLUMN api.entries.state IS '状态: pending 待认定, counted 已计入, reversed 已冲销 / State';
COMMENT ON COLUMN api.entries.credited_minutes IS '计入的分钟数 / Minutes that count';
COMMENT ON COLUMN api.entries.over_cap_minutes IS '超出每日上限、不计入的分钟数 / Minutes above the daily cap: shown, not counted, not lost';
COMMENT ON COLUMN api.entries.recorder_id IS '记录人 / Who recorded it';
COMMENT ON COLUMN api.entries.proposed_at IS '提请时间 / When it was proposed';

CREATE VIEW api.history AS
SELECT said.position, said.changed_at, said.change, said.volunteer_id, said.unit_code, coalesce(unit.name, said.unit_code) AS unit_name,
       coalesce(activity.title, '…' || right(said.activity_id::text, 8)) AS activity_title, said.activity_id,
       said.entry_id, said.account_id, said.served_on,
       said.old_starts_at, said.old_ends_at, said.old_credited_minutes, said.old_over_cap_minutes,
       said.starts_at, said.ends_at, said.credited_minutes, said.over_cap_minutes,
       said.policy_version, said.reason_code, said.requester_id, said.approver_id
FROM entry_changes AS said LEFT JOIN units AS unit ON unit.code = said.unit_code LEFT JOIN activities AS activity USING (activity_id);

COMMENT ON VIEW api.history IS '时长变动记录: 提请、认定、更正、冲销, 新旧并列 / History: every proposal, confirmation, correction and reversal, old beside new';
COMMENT ON COLUMN api.history.position IS '在本日志中的位置 / Position in this service''s log';
COMMENT ON COLUMN api.history.changed_at IS '时间 / When';
COMMENT ON COLUMN api.history.change IS '变动: proposed 提请, confirmed 认定, corrected 更正, reversed 冲销 / What happened';
COMMENT ON COLUMN api.history.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.history.unit_code IS '举办活动的单位 / The unit whose activity it was';
COMMENT ON COLUMN api.history.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.history.activity_title IS '活动名称 / Title of the activity';
COMMENT ON COLUMN api.history.activity_id IS '活动 / The activity';
COMMENT ON COLUMN api.history.entry_id IS '时长条目 / The entry';
COMMENT ON COLUMN api.history.account_id IS '账户, 即日志中的流 / The account, a stream of the log';
COMMENT ON COLUMN api.history.served_on IS '服务日期 (北京时间) / The civil day served, Asia/Shanghai';
COMMENT ON COLUMN api.history.old_starts_at IS '原计时开始 / Where the minutes began before';
COMMENT ON COLUMN api.history.old_ends_at IS '原计时结束 / Where they ended before';
COMMENT ON COLUMN api.history.old_credited_minutes IS '原计入的分钟数 / Minutes that counted before';
COMMENT ON COLUMN api.history.old_over_cap_minutes IS '原超限的分钟数 / Minutes above the cap before';
COMMENT ON COLUMN api.history.starts_at IS '计时开始 / Where the minutes begin';
COMMENT ON COLUMN api.history.ends_at IS '计时结束 / Where they end';
COMMENT ON COLUMN api.history.credited_minutes IS '计入的分钟数 / Minutes that count';
COMMENT ON COLUMN api.history.over_cap_minutes IS '超出每日上限、不计入的分钟数 / Minutes above the daily cap: shown, not counted, not lost';
COMMENT ON COLUMN api.history.policy_version IS '所依据的规则版本 / Version of the hours policy it was decided under';
COMMENT ON COLUMN api.history.reason_code IS '原因 / Reason';
COMMENT ON COLUMN api.history.requester_id IS '提出人 / Who asked for it';
COMMENT ON COLUMN api.history.approver_id IS '审核人 / Who approved it';

CREATE VIEW api.ledger AS
SELECT said.position, said.posted_at, said.posted_by, said.volunteer_id, said.year, said.unit_code,
       coalesce(unit.name, said.unit_code) AS unit_name, said.served_on, said.served_minutes, said.timed_minutes, said.back_entered_minutes,
       said.transferred_minutes, said.over_cap_minutes, said.activity_id, said.entry_id, said.account_id
FROM postings AS said LEFT JOIN units AS unit ON unit.code = said.unit_code;

COMMENT ON VIEW api.ledger IS '分录账: 每组分录合计为零 / Ledger: every posting group, each sums to zero';
COMMENT ON COLUMN api.ledger.position IS '在本日志中的位置 / Position in this service''s log';
COMMENT ON COLUMN api.ledger.posted_at IS '入账时间 / When it was posted';
COMMENT ON COLUMN api.ledger.posted_by IS '事由: confirmed 认定, corrected 更正, reversed 冲销 / What posted it';
COMMENT ON COLUMN api.ledger.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.ledger.year IS '账户年度, 按服务日期 / Civil year of the account, by the day served';
COMMENT ON COLUMN api.ledger.unit_code IS '举办活动的单位 / The unit whose activity it was';
COMMENT ON COLUMN api.ledger.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.ledger.served_on IS '服务日期 (北京时间) / The civil day served, Asia/Shanghai';
COMMENT ON COLUMN api.ledger.served_minutes IS '服务对方一侧, 与其余各栏相抵 / The world''s side, which the others balance';
COMMENT ON COLUMN api.ledger.timed_minutes IS '系统计时的分钟数 / Minutes timed by check-in and check-out';
COMMENT ON COLUMN api.ledger.back_entered_minutes IS '补录的分钟数 / Minutes entered afterwards';
COMMENT ON COLUMN api.ledger.transferred_minutes IS '转入的分钟数 / Minutes transferred from elsewhere';
COMMENT ON COLUMN api.ledger.over_cap_minutes IS '超出每日上限、不计入的分钟数 / Minutes above the daily cap: shown, not counted, not lost';
COMMENT ON COLUMN api.ledger.activity_id IS '活动 / The activity';
COMMENT ON COLUMN api.ledger.entry_id IS '时长条目 / The entry';
COMMENT ON COLUMN api.ledger.account_id IS '账户, 即日志中的流 / The account, a stream of the log';

CREATE VIEW api.ledger_sum AS
SELECT posted.groups, posted.credited_minutes, posted.over_cap_minutes,
       abs(posted.sum_minutes)
       + abs(posted.credited_minutes - kept.credited_minutes) + abs(posted.over_cap_minutes - kept.over_cap_minutes)
       + abs(posted.credited_minutes - listed.credited_minutes) + abs(posted.over_cap_minutes - listed.over_cap_minutes) AS imbalance_minutes
FROM (SELECT count(*) AS groups,
             coalesce(sum(timed_minutes + back_entered_minutes + transferred_minutes), 0)::bigint AS credited_minutes,
             coalesce(sum(over_cap_minutes), 0)::bigint AS over_cap_minutes,
             coalesce(sum(served_minutes + timed_minutes + back_entered_minutes + transferred_minutes + over_cap_minutes), 0)::bigint
                 AS sum_minutes
      FROM postings) AS posted,
     (SELECT coalesce(sum(timed_minutes + back_entered_minutes + transferred_minutes), 0)::bigint AS credited_minutes,
             coalesce(sum(over_cap_minutes), 0)::bigint AS over_cap_minutes
      FROM balances) AS kept,
     (SELECT coalesce(sum(credited_minutes), 0)::bigint AS credited_minutes, coalesce(sum(over_cap_minutes), 0)::bigint AS over_cap_minutes
      FROM entries) AS listed
WHERE (SELECT access.sees_any());

COMMENT ON VIEW api.ledger_sum IS '账目核对: 分录合计, 并与余额、条目相核 / Ledger sum: all postings, compared with balances and entries, which were counted apart';
COMMENT ON COLUMN api.ledger_sum.groups IS '分录组数 / Posting groups';
COMMENT ON COLUMN api.ledger_sum.credited_minutes IS '计入的分钟数合计 / All minutes that count';
COMMENT ON COLUMN api.ledger_sum.over_cap_minutes IS '超限的分钟数合计 / All minutes above the cap';
COMMENT ON COLUMN api.ledger_sum.imbalance_minutes IS '不平的分钟数, 必须为 0 / Minutes by which the postings fail to sum to zero, or differ from balances and entries: must be 0';

CREATE VIEW api.attendances AS
SELECT pair.attendance_id, pair.pair, coalesce(activity.title, '…' || right(pair.activity_id::text, 8)) AS activity_title, pair.activity_id,
       pair.volunteer_id, pair.unit_code, coalesce(unit.name, pair.unit_code) AS unit_name,
       pair.state, pair.checked_in_at, pair.counts_from, pair.checked_out_at, pair.check_out_by, pair.checked_in_by, pair.checked_out_by
FROM attendances AS pair LEFT JOIN units AS unit ON unit.code = pair.unit_code LEFT JOIN activities AS activity USING (activity_id);

COMMENT ON VIEW api.attendances IS '签到记录: 谁何时在何处 / Attendances: who was where, and when';
COMMENT ON COLUMN api.attendances.attendance_id IS '签到记录, 即日志中的流 / The attendance, a stream of the log';
COMMENT ON COLUMN api.attendances.pair IS '第几次签到 / Which pair, from 1';
COMMENT ON COLUMN api.attendances.activity_title IS '活动名称 / Title of the activity';
COMMENT ON COLUMN api.attendances.activity_id IS '活动 / The activity';
COMMENT ON COLUMN api.attendances.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.attendances.unit_code IS '举办活动的单位 / The unit whose activity it was';
COMMENT ON COLUMN api.attendances.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.attendances.state IS '状态: open 在场, closed 已签退, missed 未签退 / State';
COMMENT ON COLUMN api.attendances.checked_in_at IS '签到时间 / When checked in';
COMMENT ON COLUMN api.attendances.counts_from IS '计时起点: 签到与预定开始之较晚者 / The later of check-in and scheduled start';
COMMENT ON COLUMN api.attendances.checked_out_at IS '签退时间 / When checked out';
COMMENT ON COLUMN api.attendances.check_out_by IS '签退期限 / Until when a check-out is accepted';
COMMENT ON COLUMN api.attendances.checked_in_by IS '签到记录人 / Who recorded the check-in';
COMMENT ON COLUMN api.attendances.checked_out_by IS '签退记录人 / Who recorded the check-out';

CREATE VIEW api.hours_policies AS
SELECT effective_from, version, daily_cap_minutes, pairs_per_activity_day_max, check_in_early_minutes, missed_check_out_after_minutes, adopted_at,
       position
FROM hours_policies;

COMMENT ON VIEW api.hours_policies IS '时长规则: 采用过的每一版 / Hours policies: every version adopted';
COMMENT ON COLUMN api.hours_policies.effective_from IS '生效日期 / The day from which it holds';
COMMENT ON COLUMN api.hours_policies.version IS '规则版本 / Version';
COMMENT ON COLUMN api.hours_policies.daily_cap_minutes IS '每日计入上限 (分钟) / Minutes of a day that count at most';
COMMENT ON COLUMN api.hours_policies.pairs_per_activity_day_max IS '每人每活动每日签到次数上限 / Check-ins of one person at one activity on one day';
COMMENT ON COLUMN api.hours_policies.check_in_early_minutes IS '可提前签到的分钟数 / Minutes before the start from which check-in is open';
COMMENT ON COLUMN api.hours_policies.missed_check_out_after_minutes IS '预定结束后仍可签退的分钟数 / Minutes after the end until which check-out is accepted';
COMMENT ON COLUMN api.hours_policies.adopted_at IS '采用时间 / When it was adopted';
COMMENT ON COLUMN api.hours_policies.position IS '在本日志中的位置 / Position in this service''s log';

CREATE VIEW api.units AS SELECT code, name FROM units;

COMMENT ON VIEW api.units IS '单位: 登记服务最后所说的名称 / Units: what each is called, as registration said last';
COMMENT ON COLUMN api.units.code IS '单位代码 / Code of the unit';
COMMENT ON COLUMN api.units.name IS '单位名称 / Name of the unit';

CREATE VIEW api.personal_data_reads AS
SELECT number, at, actor, role AS acting_as, unit, array_to_string(subjects, ' ') AS subjects, array_to_string(fields, ' ') AS fields, what, reason AS why
FROM audit.read;
COMMENT ON VIEW api.personal_data_reads IS '个人信息查阅记录 / Who has read personal data, about whom, which fields, why';
COMMENT ON COLUMN api.personal_data_reads.number IS '序号 / Number in the chain';
COMMENT ON COLUMN api.personal_data_reads.at IS '时间 / When';
COMMENT ON COLUMN api.personal_data_reads.actor IS '查阅人标识 / Who read, by a random id';
COMMENT ON COLUMN api.personal_data_reads.acting_as IS '角色 / In which role';
COMMENT ON COLUMN api.personal_data_reads.unit IS '单位代码 / For which unit';
COMMENT ON COLUMN api.personal_data_reads.subjects IS '被查阅人标识 / About whom, by random ids';
COMMENT ON COLUMN api.personal_data_reads.fields IS '字段 / Which fields';
COMMENT ON COLUMN api.personal_data_reads.what IS '方式: reveal 查看原文, copy 副本, 或列表名 / How: reveal, copy, or the name of a list';
COMMENT ON COLUMN api.personal_data_reads.why IS '理由 / Why';
