-- What a person's key is wrapped with: an id as it stands in the envelope of a sealed text (a1 is AES-256-GCM, s1 SM4-GCM).
ALTER TABLE keys.person ADD COLUMN wrapped_with text NOT NULL DEFAULT 'a1';
