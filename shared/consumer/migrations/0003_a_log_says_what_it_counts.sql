-- What a log's owner counted of it, by its own word: those who read the log count too, and at the same position compare (reconciliation).
ALTER TABLE consumer.head ADD COLUMN figures jsonb NOT NULL DEFAULT '{}';
