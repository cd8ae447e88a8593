-- Versions that were adopted before said nothing, which means no.
ALTER TABLE lookup.star_policies ADD COLUMN reapply_after_revocation boolean NOT NULL DEFAULT false;
