"""What tests of several layers are made with; no test stands here."""
