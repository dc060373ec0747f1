/* Included by bcc; nothing of it is used. */
