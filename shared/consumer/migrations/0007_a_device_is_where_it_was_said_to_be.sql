-- From which networks a device's key counts. A key of before this was asked for has none, and counts from anywhere until it expires.
ALTER TABLE consumer.device ADD COLUMN networks cidr[] NOT NULL DEFAULT '{}';
