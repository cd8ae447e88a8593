-- The refusal log is read newest first. Of the commands that were accepted, which are by far the most, nothing is added here.
CREATE INDEX command_refused_at ON es.command (at) WHERE outcome = 'refused';
