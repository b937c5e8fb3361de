"""The service's refusals: one table of codes, statuses and messages.

Source: Microsoft's lists "Common REST API error codes" and "Blob Storage error codes".
Everything that refuses a request raises BlobError; the front turns it into the XML body
and the x-ms-error-code header.
"""

TABLE = {
    "AppendPositionConditionNotMet": (412, "The append position condition was not met."),
    "AuthenticationFailed": (403, "Server failed to authenticate the request. Make sure the "
                             "value of Authorization header is formed correctly including the "
                             "signature."),
    "AuthorizationFailure": (403, "This request is not authorized to perform this operation."),
    "AuthorizationPermissionMismatch": (403, "This request is not authorized to perform this "
                                        "operation using this permission."),
    "AuthorizationProtocolMismatch": (403, "This request is not authorized to perform this "
                                      "operation using this protocol."),
    "AuthorizationResourceTypeMismatch": (403, "This request is not authorized to perform this "
                                          "operation using this resource type."),
    "AuthorizationServiceMismatch": (403, "This request is not authorized to perform this "
                                     "operation using this service."),
    "BlobAlreadyExists": (409, "The specified blob already exists."),
    "BlobNotFound": (404, "The specified blob does not exist."),
    "BlobOverwritten": (409, "The blob has been recreated since the previous snapshot was "
                        "taken."),
    "CannotVerifyCopySource": (404, "The specified blob does not exist."),
    "ConditionNotMet": (412, "The condition specified using HTTP conditional header(s) is not "
                        "met."),
    "ContainerAlreadyExists": (409, "The specified container already exists."),
    "ContainerNotFound": (404, "The specified container does not exist."),
    "CopyIdMismatch": (409, "The specified copy ID did not match the copy ID for the pending "
                       "copy operation."),
    "Crc64Mismatch": (400, "The CRC64 value specified in the request did not match with the "
                      "CRC64 value calculated by the server."),
    "EmptyMetadataKey": (400, "The key for one of the metadata key-value pairs is empty."),
    "InternalError": (500, "Server encountered an internal error. Please try again after some "
                      "time."),
    "InvalidAuthenticationInfo": (401, "Server failed to authenticate the request. Please refer "
                                  "to the information in the www-authenticate header."),
    "InvalidBlobType": (409, "The blob type is invalid for this operation."),
    "InvalidBlockId": (400, "The specified block ID is invalid."),
    "InvalidBlockList": (400, "The specified block list is invalid."),
    "InvalidCrc64": (400, "The CRC64 value specified in the request is invalid."),
    "InvalidHeaderValue": (400, "The value for one of the HTTP headers is not in the correct "
                           "format."),
    "InvalidInput": (400, "One of the request inputs is not valid."),
    "InvalidMd5": (400, "The MD5 value specified in the request is invalid. MD5 value must be "
                   "128 bits and base64 encoded."),
    "InvalidMetadata": (400, "The metadata specified is invalid. It has characters that are not "
                        "permitted."),
    "InvalidPageRange": (416, "The page range specified is invalid."),
    "InvalidQueryParameterValue": (400, "Value for one of the query parameters specified in the "
                                   "request URI is invalid."),
    "InvalidRange": (416, "The range specified is invalid for the current size of the "
                     "resource."),
    "InvalidResourceName": (400, "The specified resource name contains invalid characters."),
    "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
    "InvalidXmlDocument": (400, "XML specified is not syntactically valid."),
    "LeaseAlreadyBroken": (409, "The lease has already been broken and cannot be broken again."),
    "LeaseAlreadyPresent": (409, "There is already a lease present."),
    "LeaseIdMismatchWithBlobOperation": (409, "The lease ID specified did not match the lease "
                                         "ID for the blob."),
    "LeaseIdMismatchWithLeaseOperation": (409, "The lease ID specified did not match the lease "
                                          "ID for the blob."),
    "LeaseIdMissing": (412, "There is currently a lease on the blob and no lease ID was "
                       "specified in the request."),
    "LeaseIsBreakingAndCannotBeAcquired": (409, "The lease ID matched, but the lease is "
                                           "currently in breaking state and cannot be acquired "
                                           "until it is broken."),
    "LeaseIsBreakingAndCannotBeChanged": (409, "The lease ID matched, but the lease is "
                                          "currently in breaking state and cannot be changed."),
    "LeaseIsBrokenAndCannotBeRenewed": (409, "The lease ID matched, but the lease has been "
                                        "broken explicitly and cannot be renewed."),
    "LeaseLost": (412, "A lease ID was specified, but the lease for the blob has expired."),
    "LeaseNotPresentWithBlobOperation": (412, "There is currently no lease on the blob."),
    "LeaseNotPresentWithLeaseOperation": (409, "There is currently no lease on the blob."),
    "Md5Mismatch": (400, "The MD5 value specified in the request did not match with the MD5 "
                    "value calculated by the server."),
    "MetadataTooLarge": (400, "The size of the specified metadata exceeds the maximum size "
                         "permitted."),
    "MissingContentLengthHeader": (411, "Content-Length header is required."),
    "MissingRequiredHeader": (400, "An HTTP header that's mandatory for this request is not "
                              "specified."),
    "MissingRequiredQueryParameter": (400, "A query parameter that's mandatory for this request "
                                      "is not specified."),
    "NoAuthenticationInformation": (401, "Server failed to authenticate the request. Please "
                                    "refer to the information in the www-authenticate header."),
    "NoPendingCopyOperation": (409, "There is currently no pending copy operation."),
    "NotImplemented": (501, "The requested operation is not implemented on the specified "
                       "resource."),
    "OperationTimedOut": (500, "The operation could not be completed within the permitted "
                          "time."),
    "OutOfRangeInput": (400, "One of the request inputs is out of range."),
    "OutOfRangeQueryParameterValue": (400, "One of the query parameters specified in the "
                                      "request URI is outside the permissible range."),
    "PendingCopyOperation": (409, "There is currently a pending copy operation."),
    "PreviousSnapshotCannotBeNewer": (400, "The prevsnapshot query parameter value cannot be "
                                      "newer than snapshot query parameter value."),
    "PreviousSnapshotNotFound": (409, "The previous snapshot is not found."),
    "RequestBodyTooLarge": (413, "The request body is too large and exceeds the maximum "
                            "permissible limit."),
    "SequenceNumberConditionNotMet": (412, "The sequence number condition specified was not "
                                      "met."),
    "SequenceNumberIncrementTooLarge": (409, "The sequence number increment cannot be performed "
                                        "because it would result in overflow of the sequence "
                                        "number."),
    "ServerBusy": (503, "The server is currently unable to receive requests. Please retry your "
                   "request."),
    "SnapshotCountExceeded": (409, "The snapshot count against this blob has been exceeded."),
    "SnapshotOperationRateExceeded": (409, "The rate of snapshot operations against this blob "
                                      "has been exceeded."),
    "SnapshotsPresent": (409, "This operation is not permitted because the blob has "
                         "snapshots."),
    "UnauthorizedBlobOverwrite": (403, "This request is not authorized to perform blob "
                                  "overwrites."),
    "UnsupportedHeader": (400, "One of the HTTP headers specified in the request is not "
                          "supported."),
    "UnsupportedHttpVerb": (405, "The resource doesn't support the specified HTTP verb."),
}


class BlobError(Exception):
    """One refusal: code and, where they differ from the table, status, message and headers."""

    def __init__(self, code, message=None, status=None, headers=None, detail=None):
        default_status, default_message = TABLE[code]
        self.code = code
        self.status = status or default_status
        self.message = message or default_message
        self.headers = headers or {}
        self.detail = detail or {}
        super().__init__(f"{self.status} {code}: {self.message}")


def bad_header(name, value, message=None):
    """400 InvalidHeaderValue that names the header, as the service does."""
    return BlobError("InvalidHeaderValue", message,
                     detail={"HeaderName": name, "HeaderValue": str(value)})


def missing_header(name):
    return BlobError("MissingRequiredHeader", detail={"HeaderName": name})


def bad_query(name, value, reason=""):
    return BlobError("InvalidQueryParameterValue",
                     detail={"QueryParameterName": name, "QueryParameterValue": str(value),
                             "Reason": reason})
