"""Commands that make what runs read: models and data sets. Nothing large lies here."""
