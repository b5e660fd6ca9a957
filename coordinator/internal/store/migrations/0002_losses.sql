-- When each loss was last added to (Unix ns, the command's time): what is over need not be shown for ever.
ALTER TABLE losses ADD COLUMN latest INTEGER NOT NULL DEFAULT 0;
