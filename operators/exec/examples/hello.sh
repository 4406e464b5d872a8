#!/bin/sh
echo "hello, $EEVEE_USER"
